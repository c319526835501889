//! Datagrams that the kernel dropped because a receive buffer was full.

use std::fs;
use std::os::fd::AsFd;

/// Reads a socket's drop counter from `/proc/net/udp` and `udp6` (proc(5)).
///
/// `SO_RXQ_OVFL` would tell the same with every datagram; quinn-udp does not pass it on. One reading a second is
/// enough, and costs some tens of microseconds.
#[derive(Clone, Debug)]
pub struct DropCounter {
    inode: Option<u64>,
    table: &'static str,
    last: u64,
}

impl DropCounter {
    pub(crate) fn new(socket: &impl AsFd, is_ipv6: bool) -> Self {
        let inode = nix::sys::stat::fstat(socket).ok().map(|stat| stat.st_ino);
        let table = match is_ipv6 {
            true => "/proc/net/udp6",
            false => "/proc/net/udp",
        };
        Self {
            inode,
            table,
            last: 0,
        }
    }

    /// Datagrams dropped since the last call that told; `None` where the system does not tell, or not this time: the
    /// table may miss a line while other sockets come and go.
    pub fn read(&mut self) -> Option<u64> {
        let table = fs::read_to_string(self.table).ok()?;
        let drops = drops_of(&table, self.inode?)?;
        let new = drops.saturating_sub(self.last);
        self.last = drops;
        Some(new)
    }
}

/// The last column of the line whose tenth column is the inode.
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let found: u64 = columns.nth(9)?.parse().ok()?;
        if found != inode {
            return None;
        }
        columns.last()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_of_the_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode \
                     ref pointer drops             \n\
                     \x20 341: 0107C0EF:1B59 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 \
                     18731 2 00000000d2ce4c0d 712\n\
                     \x20 388: 0100007F:1B88 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 \
                     17 2 0000000000000000 0\n";
        assert_eq!(drops_of(table, 18731), Some(712));
        assert_eq!(drops_of(table, 17), Some(0));
        assert_eq!(drops_of(table, 712), None);
        assert_eq!(drops_of("", 1), None);
    }
}

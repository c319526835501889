//! Staying in the group: interfaces that go and come back, and networks where nobody asks who is in it.

use std::io;
use std::time::{Duration, Instant};

use frisbee_udp::{ClientSocket, Group, Interface, LinkChange, QUERY_INTERVAL, QuerierWatch};

/// Time between two looks at the interface.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Silence after which there is no querier: a query may be some seconds late.
const UNQUERIED: Duration = QUERY_INTERVAL.saturating_add(Duration::from_secs(10));

/// Time between two joins while there is none: much less than the 260 s after which a switch forgets a member, so that
/// a lost report does no harm.
const REJOIN_INTERVAL: Duration = Duration::from_secs(60);

/// Silence of servers, which announce themselves every second, after which the group is joined anew: an interface that
/// was without an address for a moment has forgotten its memberships. Less than the 5 s after which unicast is asked for.
/// Then it is doubled each time, for there may be no server yet.
const SILENCE: Duration = Duration::from_secs(3);

/// Looks after the membership of a socket.
pub(crate) struct Membership {
    group: Group,
    interface: Interface,
    watch: io::Result<QuerierWatch>,
    unqueried: Unqueried,
    silence: Silence,
    next_look: Instant,
}

/// Something to tell the user, and whether the socket is another one.
pub(crate) struct News {
    pub(crate) line: String,
    pub(crate) moved: bool,
}

impl Membership {
    pub(crate) fn new(now: Instant, group: Group, interface: Interface) -> Self {
        Self {
            watch: QuerierWatch::open(group, &interface),
            unqueried: Unqueried::new(now),
            silence: Silence::new(now),
            next_look: now + LOOK_INTERVAL,
            group,
            interface,
        }
    }

    /// Does what is due.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        arrived: u64,
        socket: &mut ClientSocket,
    ) -> Option<News> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK_INTERVAL;
        if let Some(change) = socket.maintain() {
            return Some(self.tell(change));
        }
        if !self.group.is_multicast() {
            return None;
        }
        if self.silence.look(now, arrived) {
            // What cannot be joined is seen by the next look at the interface.
            let _ = socket.rejoin();
        }
        let heard = self
            .watch
            .as_ref()
            .is_ok_and(|watch| watch.heard().is_some());
        match self.unqueried.look(now, heard) {
            Advice::Nothing => None,
            Advice::Rejoin => {
                let _ = socket.rejoin();
                None
            }
            Advice::Warn => {
                let _ = socket.rejoin();
                let line = self.warning();
                Some(News { line, moved: false })
            }
        }
    }

    fn tell(&mut self, change: LinkChange) -> News {
        let (line, moved) = match change {
            LinkChange::Lost(why) => (format!("{why}; waiting for it"), false),
            LinkChange::Back(interface) => {
                let line = format!("{interface} is back: joined {} again", self.group);
                (line, false)
            }
            LinkChange::Moved(interface) => {
                let line = format!(
                    "{} is now {interface}: joined {} again",
                    self.interface, self.group
                );
                self.watch = QuerierWatch::open(self.group, &interface);
                self.interface = interface;
                (line, true)
            }
            _ => ("the interface has changed".into(), false),
        };
        News { line, moved }
    }

    fn warning(&self) -> String {
        let protocol = if self.group.is_ipv6() { "MLD" } else { "IGMP" };
        let name = self.interface.name();
        let seconds = REJOIN_INTERVAL.as_secs();
        match &self.watch {
            Ok(_) => format!(
                "no {protocol} querier has been heard on {name} for {} s: switches that snoop stop forwarding groups then. \
                 The group is joined anew every {seconds} s; better, switch a querier on in the switch or the router",
                UNQUERIED.as_secs()
            ),
            Err(error) => format!(
                "it cannot be told whether there is an {protocol} querier on {name}, without which switches stop forwarding \
                 groups ({error}: raw sockets need CAP_NET_RAW). The group is joined anew every {seconds} s"
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    Nothing,
    /// Nobody asks, so the membership has to be told unasked.
    Rejoin,
    /// The same for the first time.
    Warn,
}

/// How long nothing has arrived.
struct Silence {
    arrived: u64,
    since: Instant,
    patience: Duration,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self {
            arrived: 0,
            since: now,
            patience: SILENCE,
        }
    }

    /// Looks at the number of datagrams that have arrived. Whether it is time to join anew.
    fn look(&mut self, now: Instant, arrived: u64) -> bool {
        if arrived != self.arrived {
            (self.arrived, self.since, self.patience) = (arrived, now, SILENCE);
            return false;
        }
        let is_over = now.saturating_duration_since(self.since) >= self.patience;
        if is_over {
            self.since = now;
            self.patience = (2 * self.patience).min(REJOIN_INTERVAL);
        }
        is_over
    }
}

/// How long no querier has been heard.
struct Unqueried {
    since: Instant,
    rejoined: Instant,
    warned: bool,
}

impl Unqueried {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            rejoined: now,
            warned: false,
        }
    }

    fn look(&mut self, now: Instant, heard: bool) -> Advice {
        if heard {
            self.since = now;
        }
        let is_silent = now.saturating_duration_since(self.since) >= UNQUERIED;
        let is_due = now.saturating_duration_since(self.rejoined) >= REJOIN_INTERVAL;
        if !is_silent || (self.warned && !is_due) {
            return Advice::Nothing;
        }
        self.rejoined = now;
        match std::mem::replace(&mut self.warned, true) {
            true => Advice::Rejoin,
            false => Advice::Warn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done at which second, if a querier is heard at the seconds of `heard`.
    fn done(heard: &[u64], end: u64) -> Vec<(u64, Advice)> {
        let start = Instant::now();
        let mut unqueried = Unqueried::new(start);
        let advice = (0..=end).map(|second| {
            let now = start + Duration::from_secs(second);
            (second, unqueried.look(now, heard.contains(&second)))
        });
        advice
            .filter(|(_, advice)| *advice != Advice::Nothing)
            .collect()
    }

    #[test]
    fn a_network_that_is_queried_is_left_alone() {
        assert_eq!(done(&[30, 155, 280, 405], 500), []);
    }

    #[test]
    fn without_a_querier_it_warns_once_and_joins_again_and_again() {
        use Advice::{Rejoin, Warn};
        let expected = [(135, Warn), (195, Rejoin), (255, Rejoin)];
        assert_eq!(done(&[], 300), expected);
    }

    #[test]
    fn a_querier_that_ends_or_begins_is_noticed() {
        use Advice::{Rejoin, Warn};
        assert_eq!(done(&[100], 240), [(235, Warn)]);
        assert_eq!(
            done(&[200], 400),
            [(135, Warn), (195, Rejoin), (335, Rejoin), (395, Rejoin)]
        );
    }

    #[test]
    fn silence_is_met_by_joining_ever_more_rarely_until_something_comes() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        let mut joins = |seconds: std::ops::Range<u64>, arrived: &dyn Fn(u64) -> u64| {
            let due = |second: &u64| {
                let now = start + Duration::from_secs(*second);
                silence.look(now, arrived(*second))
            };
            seconds.filter(due).collect::<Vec<_>>()
        };
        assert_eq!(joins(0..100, &|_| 0), [3, 9, 21, 45, 93]);
        assert_eq!(joins(100..300, &|_| 0), [153, 213, 273]);
        assert_eq!(joins(300..310, &|second| second), [0_u64; 0]);
        assert_eq!(joins(310..320, &|_| 309), [312, 318]);
    }
}

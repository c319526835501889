//! Target `layout`: the table of spans, regions and relocations, compared with a second reader of it.

use std::cell::RefCell;

use chunkfmt::{Error, Layout};

use crate::chunk::Bench;
use crate::forge::{self, Forge, Table};

const SECTOR_SIZES: [u32; 4] = [512, 1024, 2048, 4096];

thread_local! {
    static BENCHES: RefCell<[Option<Bench>; 4]> = RefCell::default();
}

/// First byte: sector size. Then 8 bytes: sectors of the target. The rest is the layout, and data if it asks for some.
pub fn feed(data: &[u8]) -> bool {
    let Some((&[how], rest)) = data.split_first_chunk() else {
        return false;
    };
    let Some((window, body)) = rest.split_first_chunk() else {
        return false;
    };
    let window = u64::from_le_bytes(*window);
    BENCHES.with_borrow_mut(|benches| {
        let at = usize::from(how & 3);
        let bench = benches[at].get_or_insert_with(|| {
            let sector_size = SECTOR_SIZES[at];
            Bench::new(Forge {
                codec: 0,
                sector_size,
                disk_sectors: (1 << 62) / u64::from(sector_size),
                ..Forge::default()
            })
        });
        compare(bench, window, body)
    })
}

fn compare(bench: &mut Bench, window: u64, body: &[u8]) -> bool {
    let Forge {
        sector_size,
        disk_sectors,
        chunk_size,
        ..
    } = bench.forge;
    let expected = Table::read(body, window.min(disk_sectors), sector_size);
    let bytes = expected
        .as_ref()
        .map_or(0, |table| table.data_sectors() * u128::from(sector_size));
    let fits = bytes <= u128::from(chunk_size) && bytes <= 1 << 20;
    // What the layout says is there: the bytes that are there, then zeros.
    let mut body = body.to_vec();
    let plain_length = u32::try_from(bytes).ok().filter(|_| fits).unwrap_or(0);
    if let Some(table) = &expected {
        body.resize(table.length + plain_length as usize, 0);
    }
    let (tables, plain) = body.split_at(expected.as_ref().map_or(0, |table| table.length));
    let hash = bench.forge.plain_hash(tables, plain);
    let mut chunk = bench.forge.chunk(5, 0, plain_length, hash, &body);
    let (mut layout, mut data) = (Layout::default(), Vec::new());
    let opened = bench
        .opener
        .open(5, &mut chunk, window, &mut layout, &mut data);
    match (opened, expected) {
        (Ok(_), Some(expected)) => {
            assert!(fits, "more data than a chunk holds: {expected:?}");
            assert_eq!(Table::from(&layout), expected);
            assert_eq!(expected.write(), body[..expected.length]);
            assert_eq!(data, body[expected.length..]);
            assert_eq!(forge::u32_at(&chunk, 60) as usize, body.len());
            true
        }
        (Ok(_), None) => panic!("accepted, but not allowed: {layout:?}"),
        (Err(error), Some(expected)) => {
            let too_long = matches!(&error, Error::Field { field, .. } if *field == "plain length");
            assert!(too_long && !fits, "refused ({error}): {expected:?}");
            false
        }
        (Err(_), None) => false,
    }
}

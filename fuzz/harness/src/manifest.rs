//! Target `manifest`: head, object and private part, compared with a second reader of them.

use std::cell::RefCell;

use chunkfmt::{ChunkEntry, Manifest, ManifestHead, Trust};

use crate::chunk::Bench;
use crate::forge::{self, BLOCK, ENTRY, Forge, Table};

thread_local! {
    static BENCHES: RefCell<[Option<Bench>; 4]> = RefCell::default();
}

/// The forge that bits 0 (delta) and 1 (Emulab's chunks) of a first byte choose.
pub(crate) fn forge_of(how: u8) -> Forge {
    Forge {
        codec: u8::from(how & 2 == 0),
        delta: how & 3 == 1,
        ndz: how & 2 == 2,
        ..Forge::default()
    }
}

/// First byte: delta and chunk format of the image; bit 2 leaves the head as it is, bit 3 leaves the total of the
/// chunks' blocks as it is. Then the head's block, then the body. Without bit 2 what follows from the body is put right.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    let Some((head, body)) = rest.split_at_checked(BLOCK) else {
        let _ = ManifestHead::parse(rest);
        return false;
    };
    BENCHES.with_borrow_mut(|benches| {
        let at = usize::from(how & 3);
        let bench = benches[at].get_or_insert_with(|| Bench::new(forge_of(how)));
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(BLOCK), 0);
        let mut head = head.to_vec();
        if how & 4 == 0 {
            if forge::u64_at(&head, 64).div_ceil(1024) != (body.len() / BLOCK) as u64 {
                forge::put(&mut head, 64, &(body.len() as u64).to_le_bytes());
            }
            if how & 8 == 0 {
                let total = total_blocks(&head, &body);
                forge::put(&mut head, 72, &total.to_le_bytes());
            }
            bench
                .forge
                .repair_head(&mut head, &bench.forge.header(), &body);
        }
        compare(bench, &head, &body)
    })
}

/// Blocks of all chunks that the head counts and that are in the body.
fn total_blocks(head: &[u8], body: &[u8]) -> u64 {
    let chunks = forge::u32_at(head, 56) as usize;
    body.chunks_exact(ENTRY)
        .take(chunks)
        .map(|entry| u64::from(forge::u32_at(entry, 0)))
        .sum()
}

/// Whether section 9 allows this entry.
fn is_allowed(entry: &[u8], forge: &Forge) -> bool {
    let (blocks, parity) = (forge::u32_at(entry, 0), forge::u32_at(entry, 4));
    match blocks {
        0 => forge.delta && entry.iter().all(|&byte| byte == 0),
        _ if parity > 4096 || (parity == 0 && entry[40..] != [0; 32]) => false,
        _ if forge.ndz => blocks == 1024,
        _ => (2..=2082).contains(&blocks),
    }
}

/// Whether section 9 allows this body under a head whose form is good.
fn is_body_allowed(head: &[u8], body: &[u8], forge: &Forge) -> bool {
    let chunks = forge::u32_at(head, 56) as usize;
    let Ok(length) = usize::try_from(forge::u64_at(head, 64)) else {
        return false;
    };
    length.div_ceil(BLOCK) * BLOCK == body.len()
        && chunks * ENTRY <= length
        && body[length..].iter().all(|&byte| byte == 0)
        && body[..chunks * ENTRY]
            .chunks_exact(ENTRY)
            .all(|entry| is_allowed(entry, forge))
        && total_blocks(head, body) == forge::u64_at(head, 72)
}

/// The private part, if section 9 allows it: plain hashes and layouts.
fn read_private(mut bytes: &[u8], chunks: usize, forge: &Forge) -> Option<Vec<([u8; 32], Table)>> {
    let (mut lines, mut position) = (Vec::new(), 0);
    for _ in 0..chunks {
        let (hash, tables) = bytes.split_first_chunk()?;
        let table = Table::read(tables, forge.disk_sectors, forge.sector_size)?;
        if table.span.0 != position {
            return None;
        }
        position += table.span.1;
        bytes = &tables[table.length..];
        lines.push((*hash, table));
    }
    (bytes.is_empty() && position == forge.disk_sectors).then_some(lines)
}

fn compare(bench: &Bench, head_block: &[u8], body: &[u8]) -> bool {
    let Ok(head) = ManifestHead::parse(head_block) else {
        return false;
    };
    let forge = &bench.forge;
    let chunks = forge::u32_at(head_block, 56) as usize;
    let object = [forge.header(), body.to_vec()].concat();
    assert_eq!(head.chunks as usize, chunks);
    let _ = (head.image_bytes(), head.padded_body_length());
    assert!(head.verify(head_block, &Trust::default()).is_err());
    let _ = head.verify(head_block, &Trust::new(Vec::new(), true));
    let own = head.belongs_to(bench.context.header()).is_ok();
    let parsed = Manifest::parse(head.clone(), &object);
    let root_is_right = head.object_root == *blake3::hash(&object).as_bytes();
    let allowed = own && root_is_right && is_body_allowed(head_block, body, forge);
    let (header, manifest) = match (parsed, allowed) {
        (Ok(parsed), true) => parsed,
        (Err(_), false) => return false,
        (Ok(_), false) => panic!("accepted, but not allowed"),
        (Err(error), true) => panic!("refused, but allowed: {error}"),
    };
    assert_eq!(&header, bench.context.header());
    assert_eq!(manifest.digest, *blake3::hash(body).as_bytes());
    assert_eq!(manifest.entries.len(), chunks);
    assert_eq!(
        manifest
            .entries
            .iter()
            .flat_map(write_entry)
            .collect::<Vec<u8>>(),
        body[..chunks * ENTRY]
    );
    let length = usize::try_from(head.body_length).unwrap();
    let private = &body[chunks * ENTRY..length];
    let expected = read_private(private, chunks, forge);
    let is_good = match (bench.context.secrets(&manifest), expected) {
        (Ok(secrets), Some(expected)) => {
            let found: Vec<_> = secrets
                .iter()
                .map(|secret| (secret.plain_hash, Table::from(&secret.layout)))
                .collect();
            assert!(found == expected);
            let written: Vec<u8> = found
                .iter()
                .flat_map(|(hash, table)| [hash.to_vec(), table.write()].concat())
                .collect();
            assert_eq!(written, private);
            true
        }
        (Err(_), None) => false,
        (Ok(secrets), None) => panic!("accepted, but not allowed: {secrets:?}"),
        (Err(error), Some(expected)) => panic!("refused ({error}): {expected:?}"),
    };
    // The head of the same manifest under the same header is the same.
    let again = head.with_header(&header, &object, None);
    if head_block[10] == 0 {
        assert_eq!(again.unwrap()[..512], head_block[..512]);
    }
    is_good
}

fn write_entry(entry: &ChunkEntry) -> Vec<u8> {
    let numbers = [
        entry.blocks.to_le_bytes(),
        entry.parity_blocks.to_le_bytes(),
    ]
    .concat();
    [&numbers[..], &entry.root, &entry.parity_root].concat()
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap());
    let (a, b) = (args.next().unwrap(), args.next().unwrap());
    let mut slow = Vec::new();
    for seed in a..b {
        let room = frisbee_sim::Room::new(seed);
        let t = std::time::Instant::now();
        match std::panic::catch_unwind(|| room.run()) {
            Ok(Ok(o)) => slow.push((t.elapsed(), o.finished, seed)),
            Ok(Err(e)) => println!("{e}"),
            Err(_) => println!("seed {seed} panic"),
        }
    }
    slow.sort();
    println!("slowest {:?}", &slow[slow.len().saturating_sub(5)..]);
    slow.sort_by_key(|s| s.1);
    println!(
        "longest {:?} median {:?}",
        &slow[slow.len().saturating_sub(5)..],
        slow[slow.len() / 2]
    );
}

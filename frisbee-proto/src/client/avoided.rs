//! Images that were chosen and did not come: not chosen again for a while.
//!
//! Whoever once heard a head that the owner signed can repeat it. Only proven bytes show that somebody serves the image.

use std::time::{Duration, Instant};

/// For how long an image is avoided the first time; twice as long each time after.
const FIRST: Duration = Duration::from_secs(4);
/// And at most.
const MOST: Duration = Duration::from_secs(64);
/// Images remembered.
const MAX_AVOIDED: usize = 32;

#[derive(Debug)]
struct Avoided {
    uuid: [u8; 16],
    until: Instant,
    time: Duration,
}

#[derive(Debug, Default)]
pub(super) struct AvoidedImages(Vec<Avoided>);

impl AvoidedImages {
    /// The image was chosen and nothing of it came.
    pub(super) fn add(&mut self, now: Instant, uuid: [u8; 16]) {
        let before = self.0.iter().position(|avoided| avoided.uuid == uuid);
        let time = before.map_or(FIRST, |index| (self.0[index].time * 2).min(MOST));
        let new = Avoided {
            uuid,
            until: now + time,
            time,
        };
        let full = self.0.len() >= MAX_AVOIDED;
        let soonest = (0..self.0.len()).min_by_key(|&index| self.0[index].until);
        match before.or(soonest.filter(|_| full)) {
            Some(index) => self.0[index] = new,
            None => self.0.push(new),
        }
    }

    /// Whether the image is not to be chosen now.
    pub(super) fn contains(&self, now: Instant, uuid: &[u8; 16]) -> bool {
        self.0
            .iter()
            .any(|avoided| avoided.uuid == *uuid && now < avoided.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_doubles_and_the_list_is_bounded() {
        let (now, mut avoided) = (Instant::now(), AvoidedImages::default());
        avoided.add(now, [1; 16]);
        assert!(avoided.contains(now, &[1; 16]) && !avoided.contains(now, &[2; 16]));
        assert!(!avoided.contains(now + FIRST, &[1; 16]));
        avoided.add(now, [1; 16]);
        assert!(avoided.contains(now + FIRST, &[1; 16]));
        for _ in 0..20 {
            avoided.add(now, [1; 16]);
        }
        assert!(!avoided.contains(now + MOST, &[1; 16]));
        for number in 0..200 {
            avoided.add(now, [number; 16]);
        }
        assert_eq!(avoided.0.len(), MAX_AVOIDED);
    }
}

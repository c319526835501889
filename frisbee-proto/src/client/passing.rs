//! Where the stream of the server being asked is: which objects it has left.
//!
//! An object is sent in one go and in a fixed order. When the stream has gone on to something else, or back to an
//! earlier place of the same object, what is missing of it does not come any more in this pass.

use std::collections::VecDeque;

/// Datagrams that may overtake another one.
const REORDERED: u32 = 32;

#[derive(Debug, Default)]
pub(super) struct Passing {
    /// The object and unit that came last.
    last: Option<(u32, u32)>,
    /// Objects that the stream has left, and the sequence at which it did. At most one for each of the last
    /// [`REORDERED`] datagrams.
    left: VecDeque<(u32, u32)>,
}

impl Passing {
    /// The stream has moved on with this unit of an object; `next` is the sequence after it.
    pub(super) fn at(&mut self, object: u32, unit: u32, next: u32) {
        match self.last {
            Some((last, _)) if last != object => self.left.push_back((last, next)),
            Some((_, before)) if unit.saturating_add(REORDERED) < before => {
                self.left.push_back((object, next));
            }
            _ => {}
        }
        self.last = Some((object, unit));
    }

    /// An object that the stream left so long ago that nothing of that pass is still under way.
    pub(super) fn left_behind(&mut self, next: u32) -> Option<u32> {
        let &(object, at) = self.left.front()?;
        if next.wrapping_sub(at) < REORDERED {
            return None;
        }
        self.left.pop_front();
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_left_when_late_datagrams_had_their_time() {
        let mut passing = Passing::default();
        for (object, unit, next) in [(1, 0, 10), (1, 1, 11), (2, 0, 12), (1, 2, 13)] {
            passing.at(object, unit, next);
        }
        assert_eq!(passing.left_behind(43), None);
        assert_eq!(passing.left_behind(44), Some(1));
        assert_eq!(passing.left_behind(44), None);
        assert_eq!(passing.left_behind(45), Some(2));
    }

    #[test]
    fn a_second_pass_over_the_same_object_ends_the_first() {
        let mut passing = Passing::default();
        passing.at(1, 500, 10);
        passing.at(1, 490, 11);
        assert_eq!(passing.left_behind(1000), None, "reordered");
        passing.at(1, 3, 12);
        assert_eq!(passing.left_behind(44), Some(1));
    }
}

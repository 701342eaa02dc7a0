//! How far an assignment has come, by librdkafka's position, which moves past what is no record as well.
//!
//! See `docs/decisions/transactional-records.md`.

use rdkafka::Offset;

/// What librdkafka's position of a partition is worth. An assignment takes over the position of the one before until that has been
/// stopped, and only then counts anew: a position that was ahead of what is committed must not be taken for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// It could not be asked for, or is the last assignment's as long as it is this one.
    Old(Option<i64>),
    /// It is this assignment's.
    Current,
}

impl Position {
    /// Looks at what librdkafka says now; returns how far this assignment has come, if that is known.
    pub(crate) fn look(&mut self, found: Offset) -> Option<i64> {
        match (*self, found) {
            (Self::Old(Some(old)), Offset::Offset(offset)) if offset == old => None,
            (Self::Old(None), _) => None,
            (_, Offset::Offset(offset)) => {
                *self = Self::Current;
                Some(offset)
            }
            // Nothing was given to us yet.
            _ => {
                *self = Self::Current;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_once_it_is_this_assignments() {
        let mut first = Position::Current;
        assert_eq!(first.look(Offset::Invalid), None);
        assert_eq!(first.look(Offset::Offset(7)), Some(7));

        let mut again = Position::Old(Some(100));
        assert_eq!([again.look(Offset::Offset(100)), again.look(Offset::Offset(100))], [None, None]);
        assert_eq!(again.look(Offset::Invalid), None, "the old one has been stopped");
        assert_eq!(again.look(Offset::Offset(100)), Some(100));

        let mut again = Position::Old(Some(100));
        assert_eq!(again.look(Offset::Offset(51)), Some(51), "only this assignment can have moved it");
        let mut unknown = Position::Old(None);
        assert_eq!([unknown.look(Offset::Invalid), unknown.look(Offset::Offset(51))], [None, None]);
    }
}

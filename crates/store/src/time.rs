//! Times as other tools store them, and the newest documents by them.
//!
//! Holdfast stores milliseconds as int64. A shell, a driver of another language or a restore writes int32, double or Date instead, and a
//! double may have a fraction. All of them are read as milliseconds ([`millis`]).
//!
//! MongoDB orders and compares int32, int64 and double as numbers, but keeps Dates apart: above all numbers, in a range of the index of
//! their own. So [`Newest`] asks for both ranges at once, which costs one look-up in the index where there are no Dates.
//! The types in the result show whether that answer is complete: the server orders only numbers without a fraction as Holdfast does. If
//! the result contains anything else, [`Newest`] queries each range separately and merges the two.
//!
//! See `docs/decisions/times-of-other-tools.md`.

use std::cmp::Ordering;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use tokio::time::Instant;

use crate::query::batch;
use crate::{StoreError, server_limit, within};

/// 2⁶³, the least double beyond an int64.
pub(crate) const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// A time in milliseconds, if it is one; of a fraction what is whole.
pub(crate) fn millis(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Double(number) => whole(number),
        RawBsonRef::DateTime(date) => Some(date.timestamp_millis()),
        _ => None,
    }
}

/// The time in a field.
pub(crate) fn millis_of(document: &RawDocument, field: &str) -> Option<i64> {
    document.get(field).ok().flatten().and_then(millis)
}

/// The same of a document that has been parsed.
pub(crate) fn millis_in(document: &Document, field: &str) -> Option<i64> {
    match document.get(field)? {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some((*number).into()),
        Bson::Double(number) => whole(*number),
        Bson::DateTime(date) => Some(date.timestamp_millis()),
        _ => None,
    }
}

fn whole(number: f64) -> Option<i64> {
    (-BEYOND..BEYOND).contains(&number).then(|| number.floor() as i64)
}

/// Whether the server orders a time as [`millis`] does, among all that it keeps with it.
pub(crate) fn is_plain(value: Option<RawBsonRef<'_>>) -> bool {
    match value {
        Some(RawBsonRef::Int64(_) | RawBsonRef::Int32(_)) => true,
        Some(RawBsonRef::Double(number)) => whole(number).is_some() && number.fract() == 0.0,
        _ => false,
    }
}

/// What has a place in an order by time, and by id where times are equal.
pub(crate) trait Timed {
    /// In milliseconds.
    fn time(&self) -> i64;
    /// The oldest first.
    fn compare(&self, other: &Self) -> Ordering;
}

/// Documents with one value in one field, in the order of a time; an index must begin with these fields, and end with `_id`.
pub(crate) struct Range {
    /// The field that all of them share, and its value.
    pub(crate) of: (&'static str, String),
    /// The field of the time.
    pub(crate) time: &'static str,
    /// Only what comes before this time and, at the same time, this id.
    pub(crate) before: Option<(i64, String)>,
}

impl Range {
    /// Everything, whatever its time is; if there is a bound, only Dates and numbers.
    fn all(&self) -> Document {
        match self.before {
            // Whatever the server puts above numbers comes first, so it is met if it is there.
            None => self.documents(),
            Some(_) => doc! { "$or": [self.dates(), self.numbers()] },
        }
    }

    fn numbers(&self) -> Document {
        // Up to the next millisecond: a fraction belongs to its own.
        let bound = |time: i64| time.checked_add(1).map_or(doc! { "$lte": i64::MAX }, |next| doc! { "$lt": next });
        self.bounded(i64::MAX, |time| time.into(), bound)
    }

    fn dates(&self) -> Document {
        let date = |time| Bson::DateTime(DateTime::from_millis(time));
        self.bounded(i64::MAX, date, |time| doc! { "$lte": date(time) })
    }

    /// `$lt` and `$lte` compare with what is of the same kind only.
    fn bounded(&self, last: i64, time: impl Fn(i64) -> Bson, bound: impl Fn(i64) -> Document) -> Document {
        let mut filter = self.documents();
        match &self.before {
            None => drop(filter.insert(self.time, bound(last))),
            Some((before, id)) => {
                filter.insert(self.time, bound(*before));
                let earlier = doc! { self.time: { "$lt": time(*before) } };
                filter.insert("$or", vec![earlier, doc! { "_id": { "$lt": id } }]);
            }
        }
        filter
    }

    fn documents(&self) -> Document {
        doc! { self.of.0: &self.of.1 }
    }
}

/// What a query has met.
struct Met<T> {
    read: Vec<T>,
    documents: usize,
    /// All of their times are plain ([`is_plain`]).
    plain: bool,
}

/// A query for the newest documents of a range.
pub(crate) struct Newest<'a, F> {
    pub(crate) collection: &'a Collection<RawDocumentBuf>,
    pub(crate) range: Range,
    /// The fields that are needed; none: all of them.
    pub(crate) fields: Option<Document>,
    /// Reads a document, or counts it as unreadable.
    pub(crate) read: F,
    pub(crate) deadline: Instant,
}

impl<T: Timed, F: Fn(&RawDocumentBuf) -> Option<T>> Newest<'_, F> {
    /// The newest so many, the newest first. Documents that cannot be read are passed over, however many they are.
    pub(crate) async fn get(&self, wanted: usize) -> Result<Vec<T>, StoreError> {
        let met = self.scan(self.range.all(), wanted, true).await?;
        if met.plain && (met.read.len() == wanted || met.documents < wanted) {
            return Ok(met.read);
        }
        let mut numbers = self.of_kind(self.range.numbers(), wanted).await?;
        if numbers.len() == wanted
            && let Some(oldest) = numbers.last().map(T::time)
        {
            // The server orders fractions within a millisecond, and cut the last millisecond by them.
            let bound = oldest.checked_add(1).map_or(doc! {}, |next| doc! { "$lt": next });
            let mut within = doc! { "$gte": oldest };
            within.extend(bound);
            let last = doc! { "$and": [self.range.numbers(), doc! { self.range.time: within }] };
            numbers.retain(|one| one.time() != oldest);
            numbers.extend(self.scan(last, usize::MAX, false).await?.read);
        }
        let mut found = numbers;
        found.extend(self.of_kind(self.range.dates(), wanted).await?);
        found.sort_by(|one, other| other.compare(one));
        found.truncate(wanted);
        Ok(found)
    }

    /// The newest so many of those that the server orders together.
    async fn of_kind(&self, filter: Document, wanted: usize) -> Result<Vec<T>, StoreError> {
        let met = self.scan(filter.clone(), wanted, true).await?;
        if met.read.len() < wanted && met.documents == wanted {
            return Ok(self.scan(filter, wanted, false).await?.read);
        }
        Ok(met.read)
    }

    /// The first so many documents of a filter; or, without a limit, as many as it takes to read so many.
    async fn scan(&self, filter: Document, wanted: usize, limited: bool) -> Result<Met<T>, StoreError> {
        let query = self
            .collection
            .find(filter)
            .sort(doc! { self.range.time: -1, "_id": -1 })
            .batch_size(batch(wanted.min(1000)))
            .max_time(server_limit(self.deadline.saturating_duration_since(Instant::now())));
        let query = match &self.fields {
            Some(fields) => query.projection(fields.clone()),
            None => query,
        };
        // A query with a limit is answered in one batch and leaves no cursor behind.
        let query = match i64::try_from(wanted) {
            Ok(limit) if limited => query.limit(limit),
            _ => query,
        };
        within(self.deadline, async {
            let mut met = Met { read: Vec::with_capacity(wanted.min(1000)), documents: 0, plain: true };
            let mut cursor = query.await?;
            while met.read.len() < wanted
                && let Some(document) = cursor.try_next().await?
            {
                met.documents += 1;
                met.plain &= is_plain(document.get(self.range.time).ok().flatten());
                met.read.extend((self.read)(&document));
            }
            Ok(met)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_time_is_read_from_whatever_a_tool_makes_of_it() {
        let at = 1_700_000_000_123_i64;
        for (document, expected) in [
            (rawdoc! { "t": at }, Some(at)),
            (rawdoc! { "t": 5_i32 }, Some(5)),
            (rawdoc! { "t": -5_i32 }, Some(-5)),
            (rawdoc! { "t": at as f64 }, Some(at)),
            (rawdoc! { "t": at as f64 + 0.75 }, Some(at)),
            (rawdoc! { "t": -0.5 }, Some(-1)),
            (rawdoc! { "t": DateTime::from_millis(at) }, Some(at)),
            (rawdoc! { "t": DateTime::MAX }, Some(i64::MAX)),
            (rawdoc! { "t": f64::NAN }, None),
            (rawdoc! { "t": f64::INFINITY }, None),
            (rawdoc! { "t": 1e300 }, None),
            (rawdoc! { "t": BEYOND }, None),
            (rawdoc! { "t": -BEYOND }, Some(i64::MIN)),
            (rawdoc! { "t": "2023-11-14T22:13:20Z" }, None),
            (rawdoc! { "t": true }, None),
            (rawdoc! { "t": mongodb::bson::Timestamp { time: 1, increment: 1 } }, None),
            (rawdoc! {}, None),
        ] {
            assert_eq!(millis_of(&document, "t"), expected, "{document:?}");
            assert_eq!(millis_in(&document.to_document().unwrap(), "t"), expected, "{document:?}");
        }
    }
}

//! Integers as clients write them: `20`, and `20.0` and `2e1` too, which JSON Schema calls integers and which tools without an integer
//! type of their own write. `20.5`, a negative number and what does not fit are none.
//!
//! Every integer that a client sends is read here: bodies and events by [`optional`], queries by [`optional_in_query`], and a
//! [`Value`] by [`of`].

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde_json::Value;

/// A whole number from 0, however it is written.
struct Integer(u64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Integer;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number from 0")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Integer, E> {
                Ok(Integer(number))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Integer, E> {
                u64::try_from(number).map(Integer).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Integer, E> {
                // 2⁶⁴, the least number that does not fit.
                let fits = (0.0..18_446_744_073_709_551_616.0).contains(&number);
                if fits && number.fract() == 0.0 {
                    return Ok(Integer(number as u64));
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// For `#[serde(default, deserialize_with = "…")]` of a field of a body or an event.
pub(crate) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    Option::<Integer>::deserialize(deserializer)?.map(fit).transpose()
}

/// The same for a field of a query, which is text.
pub(crate) fn optional_in_query<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let number = text.parse().map(Integer).or_else(|_| serde_json::from_str(&text));
    let number = number.map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"a whole number from 0"))?;
    fit(number).map(Some)
}

/// The integer that a value is, if it is one.
pub(crate) fn of(value: &Value) -> Option<u64> {
    Integer::deserialize(value).ok().map(|Integer(number)| number)
}

fn fit<T: TryFrom<u64>, E: Error>(Integer(number): Integer) -> Result<T, E> {
    T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &"a smaller number"))
}

#[cfg(test)]
mod tests {
    use serde_json::from_str;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "optional")]
        limit: Option<usize>,
        #[serde(default, deserialize_with = "optional")]
        small: Option<u8>,
    }

    #[derive(Debug, Deserialize)]
    struct InQuery {
        #[serde(default, deserialize_with = "optional_in_query")]
        limit: Option<usize>,
    }

    const WHOLE: [(&str, u64); 11] = [
        ("20", 20),
        ("20.0", 20),
        ("20.000", 20),
        ("2e1", 20),
        ("2.0E+1", 20),
        ("200e-1", 20),
        ("0", 0),
        ("0.0", 0),
        ("-0.0", 0),
        ("18446744073709551615", u64::MAX),
        ("9007199254740993", 9_007_199_254_740_993),
    ];
    const OTHERS: [&str; 14] = [
        "20.5",
        "0.1",
        "-1",
        "-1.0",
        "-1e300",
        "1e300",
        "1.8446744073709552e19",
        "18446744073709551616",
        "1e-1",
        "true",
        r#""""#,
        "[20]",
        "{}",
        r#""NaN""#,
    ];

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        for (text, number) in WHOLE {
            let body: Body = from_str(&format!(r#"{{"limit":{text}}}"#)).expect(text);
            assert_eq!((body.limit, body.small), (Some(number as usize), None), "{text}");
            // What was parsed before, and what a flattened field is read from.
            assert_eq!(of(&from_str(text).unwrap()), Some(number), "{text}");
        }
        for absent in ["{}", r#"{"limit":null}"#] {
            assert_eq!(from_str::<Body>(absent).unwrap().limit, None);
        }
    }

    #[test]
    fn what_is_no_whole_number_or_does_not_fit_is_refused() {
        for text in OTHERS {
            assert!(from_str::<Body>(&format!(r#"{{"limit":{text}}}"#)).is_err(), "{text}");
            assert_eq!(of(&from_str(text).unwrap()), None, "{text}");
        }
        assert!(from_str::<Body>(r#"{"limit":"20"}"#).is_err(), "text is no number");
        assert_eq!(of(&Value::Null), None);
        assert_eq!(from_str::<Body>(r#"{"small":255.0}"#).unwrap().small, Some(255));
        assert!(from_str::<Body>(r#"{"small":256.0}"#).is_err());
    }

    #[test]
    fn a_query_is_read_alike() {
        let read = |text: &str| {
            let uri = axum::http::Uri::builder().path_and_query(format!("/?limit={text}")).build().unwrap();
            axum::extract::Query::<InQuery>::try_from_uri(&uri).map(|query| query.0.limit)
        };
        for (text, number) in WHOLE {
            assert_eq!(read(&text.replace('+', "%2B")).expect(text), Some(number as usize), "{text}");
        }
        for text in ["20.5", "-1", "1e300", "", "true", "NaN", "inf", "18446744073709551616", "[20]", "null", "0x14"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

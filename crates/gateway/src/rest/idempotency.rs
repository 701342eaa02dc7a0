//! `Idempotency-Key`: the header that makes a request repeatable.

use axum::http::HeaderMap;
use holdfast_message::draft::MAX_TEMP_ID;
use utoipa::IntoParams;

use crate::refusal::{Code, Refusal};

const NAME: &str = "idempotency-key";

/// The header's value: 1 to 128 printable ASCII characters, bare or in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdempotencyKey(pub(super) String);

/// The header in the API description.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header")]
pub(super) struct IdempotencyKeyHeader {
    /// Requests of one user with the same key are one request. In quotes (`"key"`) and bare, it is the same key. A send's key is its
    /// `tempId`; where both are given they must be the same.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 128,
        nullable = false,
        pattern = r#"^([!#-~]([ -~]*[!-~])?|"([ !#-\[\]-~]|\\["\\])+")$"#
    )]
    key: Option<String>,
}

impl IdempotencyKey {
    /// The key that the headers name. Refused: two headers with different keys, and what is no key.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut keys = headers.get_all(NAME).iter().map(|value| {
            let key = value.to_str().ok().and_then(|text| parse(text.trim()));
            key.ok_or_else(|| {
                invalid(&format!("1 to {MAX_TEMP_ID} printable characters, and in quotes as RFC 9651 writes a string"))
            })
        });
        let Some(first) = keys.next().transpose()? else { return Ok(None) };
        for other in keys {
            if other? != first {
                return Err(invalid("sent more than once, with different values"));
            }
        }
        Ok(Some(Self(first)))
    }
}

/// A String of a structured field (RFC 9651, section 4.2.5), as the IETF's draft of this header has it, or the text as it is.
fn parse(text: &str) -> Option<String> {
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => text.to_owned(),
    };
    let printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (printable && (1..=MAX_TEMP_ID).contains(&key.len())).then_some(key)
}

/// What follows the opening quote, up to the closing one, which must be the end.
fn unquote(text: &str) -> Option<String> {
    let (mut key, mut rest) = (String::with_capacity(text.len()), text.chars());
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(key),
            '\\' => key.push(rest.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => key.push(other),
        }
    }
}

fn invalid(rule: &str) -> Refusal {
    Refusal::new(Code::Validation, format!("Idempotency-Key: {rule}"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, Code> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("Idempotency-Key", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        IdempotencyKey::read(&headers).map(|key| key.map(|key| key.0)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn bare_and_in_quotes_it_is_one_key() {
        assert_eq!(read(&[]), Ok(None));
        let longest = "x".repeat(MAX_TEMP_ID);
        for (value, key) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (r#""8e03978e-40d5-43dd-bc93-6894a57f9324""#, "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("  key  ", "key"),
            (r#" "key" "#, "key"),
            ("a key, with; marks", "a key, with; marks"),
            (r#""a key, with; marks""#, "a key, with; marks"),
            (r#""a \"quote\" and a \\""#, r#"a "quote" and a \"#),
            (r#"not"quoted"#, r#"not"quoted"#),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(read(&[value]), Ok(Some(key.to_owned())), "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "x".repeat(MAX_TEMP_ID + 1);
        for value in [
            "",
            "  ",
            r#""""#,
            r#"""#,
            r#""open"#,
            r#""a"b"#,
            r#""a";b=1"#,
            r#""a", "b""#,
            r#""\a""#,
            "a\tb",
            "ä",
            &long,
        ] {
            assert_eq!(read(&[value]), Err(Code::Validation), "{value:?}");
        }
    }

    #[test]
    fn a_key_that_is_sent_twice_is_the_same_both_times() {
        assert_eq!(read(&["a", "a", r#""a""#]), Ok(Some("a".into())));
        for twice in [["a", "b"], [r#""a""#, "b"], ["a", ""], ["a", "A"]] {
            assert_eq!(read(&twice), Err(Code::Validation), "{twice:?}");
        }
    }
}

//! The W3C trace context that a message carries from the socket event to the flush that stored it.
//!
//! <https://www.w3.org/TR/trace-context/>

use std::fmt;

/// A `traceparent` value: 32 hexadecimal digits of trace id and 16 of span id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceParent {
    /// A new trace with random, non-zero ids.
    pub fn random(trace: u128, span: u64) -> Self {
        Self { trace: trace.max(1), span: span.max(1), sampled: false }
    }

    /// Reads a header of version 00.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let exact =
            version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2 && parts.next().is_none();
        let lower_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !exact || ![trace, span, flags].into_iter().all(lower_hex) {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// The trace's id, as logs name it.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_a_wrong_one_is_not() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(header).unwrap().to_string(), header);
        for wrong in ["", "00-0-0-00", &header.replace('4', "G"), &header.replace("00-", "01-"), &format!("{header}-x")]
        {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
    }
}

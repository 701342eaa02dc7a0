//! The types of settings' values, and how each is parsed.

use std::time::Duration;

use super::Profile;

/// A value that a setting can have.
pub trait Value: Sized {
    /// Whether it is hidden wherever it would be printed.
    const SECRET: bool = false;
    /// Reads it; the error says what it must be.
    fn parse(text: &str) -> Result<Self, String>;
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A length of time given in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub Duration);

/// A length of time given in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

/// Texts separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct List(pub Vec<String>);

macro_rules! values_from_str {
    ($($type:ty: $what:literal),* $(,)?) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| concat!("must be ", $what).to_owned())
            }
        }
    )*};
}

values_from_str! {
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number, 0 or more",
    usize: "a whole number, 0 or more",
    i32: "a whole number",
    String: "text",
    std::net::IpAddr: "an IP address",
    std::net::SocketAddr: "an address and port, as 127.0.0.1:9464",
    std::path::PathBuf: "a path",
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("must be true or false".into()),
        }
    }
}

impl Value for Secret {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.into()))
    }
}

impl Value for Millis {
    fn parse(text: &str) -> Result<Self, String> {
        u32::parse(text).map(|millis| Self(Duration::from_millis(millis.into())))
    }
}

impl Value for Seconds {
    fn parse(text: &str) -> Result<Self, String> {
        u32::parse(text).map(|seconds| Self(Duration::from_secs(seconds.into())))
    }
}

impl Value for List {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Into::into).collect()))
    }
}

impl Value for Profile {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "development" => Ok(Self::Development),
            "production" => Ok(Self::Production),
            "testing" => Ok(Self::Testing),
            _ => Err("must be development, production or testing".into()),
        }
    }
}

impl<T: Value> Value for Option<T> {
    const SECRET: bool = T::SECRET;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}

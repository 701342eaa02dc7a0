//! `CORS_ORIGINS`: which pages may call.
//!
//! A browser names the origin of the page that makes a request (RFC 6454). For REST it asks first and withholds the answer from a page that
//! may not have it (CORS); a WebSocket it just opens, and what a page sends by long polling is sent before the answer is withheld. So Socket.IO's
//! requests are checked by the server. Programs that are no browsers name no origin, and pass: the token says who they are.
//!
//! See `docs/decisions/origins-of-pages.md`.

use axum::http::{HeaderMap, HeaderValue, header};
use holdfast_service::settings::Value;
use url::Url;

/// The origins that may call, as browsers write them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// `*`.
    any: bool,
    named: Vec<HeaderValue>,
}

impl Value for Origins {
    fn parse(text: &str) -> Result<Self, String> {
        let mut origins = Self::default();
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        for (index, entry) in entries.enumerate() {
            if entry == "*" {
                origins.any = true;
                continue;
            }
            let origin = serialized(entry).and_then(|origin| HeaderValue::from_str(&origin).ok());
            origins.named.push(origin.ok_or_else(|| {
                let entry = index + 1;
                format!("entry {entry} is not an origin: it must be a scheme, a host and perhaps a port, as https://app.example.org or http://localhost:5173, or * alone")
            })?);
        }
        Ok(origins)
    }
}

impl Origins {
    /// The named origins; `None` if every origin may call.
    pub fn named(&self) -> Option<&[HeaderValue]> {
        (!self.any).then_some(&self.named)
    }

    /// Whether a request with these headers may open or use a Socket.IO connection: it comes from no browser, from a page of this
    /// very host, or from an origin of the setting.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => true,
            _ if self.any => true,
            (Some(origin), None) => self.named.contains(origin) || is_of(origin, headers.get(header::HOST)),
            // A browser sends one.
            (Some(_), Some(_)) => false,
        }
    }
}

/// An origin as a browser writes it (HTML, 7.1.1): in lower case, a name in Punycode, without its scheme's usual port.
fn serialized(entry: &str) -> Option<String> {
    if entry == "file://" {
        return Some(entry.to_owned());
    }
    let url = Url::parse(entry).ok()?;
    let is_bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('*'))?;
    if !is_bare || !matches!(url.path(), "" | "/") {
        return None;
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", url.scheme(), host.to_ascii_lowercase()))
}

/// Whether a page of this origin comes from the host that was asked. The scheme is not compared: a proxy may have ended TLS.
fn is_of(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let Ok(asked) = Url::parse(&format!("{}://{host}", origin.split("://").next().unwrap_or_default())) else {
        return false;
    };
    let Ok(page) = Url::parse(origin) else { return false };
    asked.host_str().is_some_and(|host| !host.is_empty())
        && asked.host_str() == page.host_str()
        && asked.port_or_known_default() == page.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(setting: &str, origins: &[&str], host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().unwrap());
        }
        Origins::parse(setting).unwrap().allow(&headers)
    }

    #[test]
    fn an_origin_is_taken_as_browsers_write_it() {
        for (entry, sent) in [
            ("https://chat.example", "https://chat.example"),
            ("https://chat.example/", "https://chat.example"),
            ("HTTPS://Chat.Example", "https://chat.example"),
            ("https://chat.example:443", "https://chat.example"),
            ("https://chat.example:8443", "https://chat.example:8443"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:5173", "http://[::1]:5173"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
            ("file://", "file://"),
            ("https://a.example, https://chat.example ,", "https://chat.example"),
        ] {
            assert!(allows(entry, &[sent], "gateway:3000"), "{entry}");
            assert!(!allows(entry, &["https://other.example"], "gateway:3000"), "{entry}");
        }
    }

    #[test]
    fn an_entry_that_is_no_origin_is_named_by_its_place() {
        for entry in [
            "chat.example",
            "localhost:5173",
            "//chat.example",
            "https://",
            "https://*.chat.example",
            "https://chat.example/app",
            "https://chat.example?x",
            "https://chat.example#x",
            "https://user@chat.example",
            "https://chat.example:port",
            "https://chat.example:70000",
            "https://chat example",
            "null",
            "mailto:somebody@chat.example",
        ] {
            let error = Origins::parse(&format!("https://good.example, {entry}")).expect_err(entry);
            assert!(error.starts_with("entry 2 is not an origin") && !error.contains("chat"), "{error}");
        }
    }

    #[test]
    fn pages_of_the_same_host_and_what_is_no_browser_pass() {
        assert!(allows("", &[], "chat.example"));
        assert!(allows("", &["https://chat.example"], "chat.example"), "behind a proxy that ended TLS");
        assert!(allows("", &["https://chat.example"], "chat.example:443"));
        assert!(allows("", &["http://127.0.0.1:3000"], "127.0.0.1:3000"));
        assert!(allows("", &["http://[::1]:3000"], "[::1]:3000"));
        for origin in [
            "https://chat.example:8443",
            "https://chat.example.evil.example",
            "https://evil.example",
            "null",
            "",
            "file://",
        ] {
            assert!(!allows("", &[origin], "chat.example"), "{origin}");
            assert!(!allows("https://a.example", &[origin], "chat.example"), "{origin}");
            assert!(allows("*", &[origin], "chat.example"), "{origin}");
        }
        assert!(!allows("https://a.example", &["https://a.example", "https://evil.example"], "chat.example"));
        assert!(!allows("", &["https://chat.example"], ""));
    }
}

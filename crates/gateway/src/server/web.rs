//! The chat in the browser (`WEB_UI`): the files that `clients/web` builds into `crates/gateway/web`, as they are in this binary.
//!
//! A page of one version names its script and its style with that version (`?v=`), so those two may be kept for ever; everything else is
//! asked for again each time, and answered with 304 if it has not changed. Should the page of one gateway ask another gateway of
//! another version for its script, it gets that one's, which nobody keeps. See `docs/decisions/web-chat.md`.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the build wrote of itself: it changes with any of the files.
const VERSION: &str = include_str!("../../web/version");
const PAGE: &str = include_str!("../../web/index.html");
/// In the page: how one signs in.
const BY_TOKEN: &str = r#"name="holdfast-sign-in" content="token""#;
const BY_NAME: &str = r#"name="holdfast-sign-in" content="name""#;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content of what is served beside the page.
const FILES: [(&str, &str, &[u8]); 6] = [
    ("/web/chat.js", JAVASCRIPT, include_bytes!("../../web/chat.js")),
    ("/web/chat.css", "text/css; charset=utf-8", include_bytes!("../../web/chat.css")),
    ("/web/icon.svg", "image/svg+xml", include_bytes!("../../web/icon.svg")),
    ("/web/manifest.webmanifest", "application/manifest+json", include_bytes!("../../web/manifest.webmanifest")),
    ("/web/licences.md", "text/plain; charset=utf-8", include_bytes!("../../web/licences.md")),
    // At the root, because a service worker reaches no further than its own folder.
    ("/sw.js", JAVASCRIPT, include_bytes!("../../web/sw.js")),
];

/// Nothing but the gateway's own files, and pictures that messages name. Text can't become script: whatever is to run has to come from
/// a file of the gateway's, and the one that the page loads by name (the service worker) goes through its only policy.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; \
    connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types holdfast";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

const REVALIDATE: &str = "no-cache";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The page at `/`, and its files. `sign_in_by_name`: `POST /api/dev/token` gives tokens.
pub(super) fn router(sign_in_by_name: bool) -> Router {
    let page = if sign_in_by_name { PAGE.replace(BY_TOKEN, BY_NAME) } else { PAGE.to_owned() };
    let tag = if sign_in_by_name { "name" } else { "token" };
    let page = move |headers: HeaderMap| async move {
        answer(&headers, "text/html; charset=utf-8", page.into(), REVALIDATE, &format!("W/\"{VERSION}-{tag}\""))
    };
    FILES.into_iter().fold(Router::new().route("/", get(page)), |router, (path, kind, content)| {
        let file = move |uri: Uri, headers: HeaderMap| async move {
            let asked = uri.query().and_then(|query| query.strip_prefix("v="));
            let keep = if asked == Some(VERSION) { FOR_EVER } else { REVALIDATE };
            answer(&headers, kind, content.into(), keep, &format!("W/\"{VERSION}\""))
        };
        router.route(path, get(file))
    })
}

fn answer(asked: &HeaderMap, kind: &'static str, content: Body, keep: &'static str, tag: &str) -> Response {
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|tags| tags.to_str().is_ok_and(|tags| tags.contains(tag)));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_its_files_by_their_version_and_says_how_to_sign_in() {
        assert!(PAGE.contains(BY_TOKEN));
        for file in ["chat.js", "chat.css"] {
            assert!(PAGE.contains(&format!("\"/web/{file}?v={VERSION}\"")), "{file}");
        }
        // Either of them would need a hole in the policy.
        assert!(!PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("<script>"), "{PAGE}");
    }
}

//! The chat in the browser, as it is served.

use holdfast_testkit::{Response, request};

use crate::support::{Gateway, settings};

async fn get(gateway: &Gateway, path: &str, headers: &[String]) -> Response {
    request(&gateway.url, "GET", path, headers, "").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chat_is_served_only_where_it_is_asked_for_and_gives_nobody_a_token() {
    let without = Gateway::start(settings(&[]).await).await;
    for path in ["/", "/web/chat.js", "/sw.js"] {
        assert_eq!(get(&without, path, &[]).await.status, 404, "{path}");
    }
    let gateway = Gateway::start(settings(&[("WEB_UI", "true")]).await).await;
    let page = get(&gateway, "/", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let html = String::from_utf8(page.bytes).unwrap();
    assert!(html.contains(r#"name="holdfast-sign-in" content="token""#), "{html}");
    let login = request(&gateway.url, "POST", "/api/dev/token", &[], r#"{"userId":"alice"}"#).await.unwrap();
    assert_eq!(login.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_runs_nothing_but_the_gateways_own_files() {
    let gateway = Gateway::start(settings(&[("WEB_UI", "true")]).await).await;
    let files =
        ["chat.js", "chat.css", "icon.svg", "manifest.webmanifest", "licences.md"].map(|name| format!("/web/{name}"));
    for path in files.iter().map(String::as_str).chain(["/", "/sw.js"]) {
        let answer = get(&gateway, path, &[]).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for rule in ["default-src 'none'", "script-src 'self';", "style-src 'self';", "connect-src 'self';"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(!answer.bytes.is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_names_by_version_is_kept_for_ever_and_the_rest_is_asked_for_again() {
    let gateway = Gateway::start(settings(&[("WEB_UI", "true")]).await).await;
    let page = get(&gateway, "/", &[]).await;
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let html = String::from_utf8_lossy(&page.bytes).into_owned();
    let script = html.split('"').find(|text| text.starts_with("/web/chat.js?v=")).unwrap();
    let kept = get(&gateway, script, &[]).await;
    assert_eq!(kept.header("cache-control"), Some("public, max-age=31536000, immutable"));
    // What another gateway's page asks for is another version's: nobody may keep this one under that name.
    for path in ["/web/chat.js", "/web/chat.js?v=0123456789abcdef", "/sw.js"] {
        assert_eq!(get(&gateway, path, &[]).await.header("cache-control"), Some("no-cache"), "{path}");
    }
    for path in ["/", script] {
        let tag = get(&gateway, path, &[]).await.header("etag").unwrap().to_uppercase();
        let tag = tag.trim_start_matches("W/").to_lowercase();
        let again = get(&gateway, path, &[format!("if-none-match: W/{tag}")]).await;
        assert_eq!((again.status, again.bytes.len()), (304, 0), "{path}: {tag}");
    }
}

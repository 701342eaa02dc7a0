//! The connection string: which of its options are taken, and which are refused.
//!
//! An option that only tunes (`maxPoolSize`, `connectTimeoutMS`, `serverSelectionTimeoutMS`, `retryReads`, `retryWrites`, `wtimeoutMS`,
//! `appName`) takes precedence over this crate's default. An option on whose value the promise rests is accepted with that value and refused by
//! its name with any other: it is never overwritten silently. No error repeats the string, or what the driver says of it, because a
//! string that can't be read may show its password at any place.
//!
//! See `docs/decisions/mongodb-options.md`.

use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, ReadConcern, ReadConcernLevel, ReadPreference, SelectionCriteria,
    WriteConcern,
};

use crate::{StoreError, StoreSettings, server_limit};

/// The driver's options by the names of its manual. Only these are ever named in an error.
const OPTIONS: [&str; 42] = [
    "adaptiveRetries",
    "appName",
    "authMechanism",
    "authMechanismProperties",
    "authSource",
    "compressors",
    "connectTimeoutMS",
    "directConnection",
    "enableOverloadRetargeting",
    "heartbeatFrequencyMS",
    "journal",
    "loadBalanced",
    "localThresholdMS",
    "maxAdaptiveRetries",
    "maxConnecting",
    "maxIdleTimeMS",
    "maxPoolSize",
    "maxStalenessSeconds",
    "minPoolSize",
    "proxyHost",
    "proxyPassword",
    "proxyPort",
    "proxyUsername",
    "readConcernLevel",
    "readPreference",
    "readPreferenceTags",
    "replicaSet",
    "retryReads",
    "retryWrites",
    "serverMonitoringMode",
    "serverSelectionTimeoutMS",
    "socketTimeoutMS",
    "srvMaxHosts",
    "srvServiceName",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsCertificateKeyFilePassword",
    "tlsInsecure",
    "w",
    "wtimeoutMS",
];

const SPECIAL: &str = "user, password, host, port, database or two options that exclude each other can't be used; in user and \
                       password, special characters must be percent-encoded";

/// Says what is wrong with a connection string, without repeating any of it: it can't be read, or asks for what would break the
/// promise.
///
/// # Errors
/// What is wrong, options by their names.
pub fn check_url(url: &str) -> Result<(), String> {
    // Else the user would be taken for a host, and a part of the password for its port.
    if url.split_once('?').is_some_and(|(before, options)| !before.contains('@') && options.contains('@')) {
        return Err(SPECIAL.into());
    }
    let string = ConnectionString::parse(url).map_err(|_| why_unreadable(url))?;
    refuse(string.write_concern.as_ref(), string.read_concern.as_ref(), string.read_preference.as_ref())
}

/// The client's options: those of the connection string, then the settings for what it leaves open, and what the promise rests on.
pub(crate) async fn options(settings: &StoreSettings) -> Result<ClientOptions, StoreError> {
    check_url(&settings.url).map_err(rejected)?;
    let mut options = ClientOptions::parse(&settings.url).await.map_err(|error| match StoreError::from(error) {
        StoreError::Rejected { code, .. } => StoreError::Rejected { code, reason: why_unreadable(&settings.url) },
        passing => passing,
    })?;
    // Once more: what DNS adds to `mongodb+srv` is among these.
    let preference = match &options.selection_criteria {
        Some(SelectionCriteria::ReadPreference(preference)) => Some(preference),
        _ => None,
    };
    refuse(options.write_concern.as_ref(), options.read_concern.as_ref(), preference).map_err(rejected)?;
    apply(settings, &mut options);
    Ok(options)
}

fn rejected(reason: String) -> StoreError {
    StoreError::Rejected { code: None, reason }
}

fn refuse(
    write: Option<&WriteConcern>,
    read: Option<&ReadConcern>,
    preference: Option<&ReadPreference>,
) -> Result<(), String> {
    let w = write.and_then(|concern| concern.w.as_ref());
    let refused = [
        ("w", "majority", !matches!(w, None | Some(Acknowledgment::Majority))),
        ("journal", "true", write.and_then(|concern| concern.journal) == Some(false)),
        ("readConcernLevel", "local", read.is_some_and(|concern| concern.level != ReadConcernLevel::Local)),
        ("readPreference", "primary", !matches!(preference, None | Some(ReadPreference::Primary))),
    ];
    let wrong: Vec<_> = refused
        .iter()
        .filter(|(.., wrong)| *wrong)
        .map(|(name, value, _)| format!("the option {name} must be {value}, or be left out"))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn apply(settings: &StoreSettings, options: &mut ClientOptions) {
    options.app_name.get_or_insert_with(|| "holdfast".into());
    options.server_selection_timeout.get_or_insert(settings.server_selection_timeout);
    options.connect_timeout.get_or_insert(settings.connect_timeout);
    // The default is no reason to refuse a larger `minPoolSize`.
    options.max_pool_size.get_or_insert(settings.max_connections.max(options.min_pool_size.unwrap_or(0)));
    options.retry_reads.get_or_insert(true);
    // Without it the caller tries again what failed, as after any error: every write here may happen twice.
    options.retry_writes.get_or_insert(true);
    let limit = options.write_concern.as_ref().and_then(|concern| concern.w_timeout);
    options.write_concern = Some(
        WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .w_timeout(limit.unwrap_or(server_limit(settings.write_timeout)))
            .build(),
    );
    options.read_concern = Some(ReadConcern::local());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
}

/// What keeps the driver from reading it: the first option that it does not read by itself, or else something before the options.
fn why_unreadable(url: &str) -> String {
    let Some((scheme @ ("mongodb" | "mongodb+srv"), rest)) = url.split_once("://") else {
        return "it must begin with mongodb:// or mongodb+srv://".into();
    };
    let options = rest.split_once('?').map_or("", |(_, options)| options);
    let mut seen = Vec::new();
    for (number, option) in (1..).zip(options.split('&')).filter(|(_, option)| !option.is_empty()) {
        let Some((name, _)) = option.split_once('=') else { return format!("option {number} is not name=value") };
        let known = OPTIONS.iter().chain(&["ssl", "waitQueueTimeoutMS", "uuidRepresentation", "zlibCompressionLevel"]);
        let Some(name) = known.into_iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            return format!("option {number} is none that the driver knows");
        };
        if seen.contains(name) && *name != "readPreferenceTags" {
            return format!("the option {name} is given twice");
        }
        seen.push(*name);
        // These two are read only beside another option.
        let alone = !matches!(*name, "readPreferenceTags" | "maxStalenessSeconds");
        if alone && ConnectionString::parse(format!("{scheme}://a.b.c/?{option}")).is_err() {
            return format!("the option {name} or its value can't be used");
        }
    }
    SPECIAL.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn of(query: &str) -> ClientOptions {
        let settings = StoreSettings::new(format!("mongodb://127.0.0.1:1/?{query}"), "chat");
        options(&settings).await.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    #[tokio::test]
    async fn what_the_connection_string_tunes_takes_precedence_over_the_defaults() {
        let (millis, given) =
            (Duration::from_millis, "maxPoolSize=3&connectTimeoutMS=700&serverSelectionTimeoutMS=900");
        let options = of(&format!("{given}&retryReads=false&wtimeoutMS=1234&appName=mine")).await;
        assert_eq!(options.max_pool_size, Some(3));
        assert_eq!((options.connect_timeout, options.server_selection_timeout), (Some(millis(700)), Some(millis(900))));
        assert_eq!((options.retry_reads, options.app_name.as_deref()), (Some(false), Some("mine")));
        let write = options.write_concern.unwrap();
        assert_eq!((write.w, write.journal), (Some(Acknowledgment::Majority), Some(true)));
        assert_eq!(write.w_timeout, Some(millis(1234)));
    }

    #[tokio::test]
    async fn what_the_connection_string_leaves_open_is_as_the_settings_say() {
        let options = of("").await;
        assert_eq!(options.max_pool_size, Some(32));
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(options.server_selection_timeout, Some(Duration::from_secs(2)));
        assert_eq!((options.retry_reads, options.retry_writes), (Some(true), Some(true)));
        assert_eq!(options.write_concern.unwrap().w_timeout, Some(Duration::from_secs(9)));
        assert_eq!(of("minPoolSize=50").await.max_pool_size, Some(50));
    }

    #[tokio::test]
    async fn what_would_break_the_promise_is_refused_by_its_name() {
        let cases = [
            ("w=1", "w"),
            ("W=0", "w"),
            ("w=2", "w"),
            ("w=custom", "w"),
            ("journal=false", "journal"),
            ("readConcernLevel=majority", "readConcernLevel"),
            ("readConcernLevel=available", "readConcernLevel"),
            ("readPreference=secondary", "readPreference"),
            ("readPreference=nearest&readPreferenceTags=dc:east", "readPreference"),
        ];
        for (query, name) in cases {
            let reason = check_url(&format!("mongodb://127.0.0.1/?{query}")).unwrap_err();
            assert!(reason.contains(&format!("option {name} must be")), "{query}: {reason}");
        }
        let both = check_url("mongodb://127.0.0.1/?w=1&journal=false").unwrap_err();
        assert!(both.contains("option w must") && both.contains("option journal must"), "{both}");
        // What hosted MongoDB hands out.
        for sound in [
            "retryWrites=true&w=majority",
            "retryWrites=false",
            "journal=true&readConcernLevel=local&readPreference=primary",
        ] {
            check_url(&format!("mongodb://127.0.0.1/?{sound}")).unwrap();
        }
    }

    #[test]
    fn a_string_that_cannot_be_read_is_explained_without_its_text() {
        let cases = [
            ("CANARY", "must begin with"),
            ("CANARY://127.0.0.1", "must begin with"),
            ("mongodb://u:CANARY@/", "can't be used"),
            ("mongodb://u:CAN@ARY@127.0.0.1/", "percent-encoded"),
            ("mongodb://u:CAN/ARY@127.0.0.1/", "percent-encoded"),
            ("mongodb://u:CAN?ARY@127.0.0.1/", "percent-encoded"),
            ("mongodb://u:9?appName=CANARY@127.0.0.1/", "percent-encoded"),
            ("mongodb://u:p@127.0.0.1:CANARY/", "can't be used"),
            ("mongodb://127.0.0.1/?maxPoolSize=CANARY", "option maxPoolSize or its value"),
            ("mongodb://127.0.0.1/?MAXPOOLSIZE=1&maxPoolSize=CANARY", "maxPoolSize is given twice"),
            ("mongodb://127.0.0.1/?maxPoolSize=1&CANARY", "option 2 is not name=value"),
            ("mongodb://127.0.0.1/?CANARY=1", "option 1 is none"),
            ("mongodb://127.0.0.1/?authMechanism=CANARY", "option authMechanism"),
            ("mongodb://127.0.0.1/?authMechanismProperties=CANARY", "option authMechanismProperties"),
        ];
        for (url, expected) in cases {
            let reason = check_url(url).unwrap_err();
            assert!(reason.contains(expected), "{url}: {reason}");
            assert!(!reason.contains("CAN") && !reason.contains("ARY"), "{url}: {reason}");
        }
    }
}

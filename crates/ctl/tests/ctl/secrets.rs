//! No output of any program holds a secret, or a part of one, however the settings are malformed.
//!
//! Every secret has [`HEAD`] and [`TAIL`] in it, with something between them that some reader trips over. Each program is started as an
//! operator would start it, with every such setting in its environment and in its file, and everything that it says is searched:
//! standard output and error, `/health`, `/metrics`. The other servers are away, so that whatever tries to reach them says so.

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_testkit::{Folder, Program, ProgramOptions, free_port, http_get};

/// A secret begins with it, and what a reader takes for the first part of it still does.
const HEAD: &str = "Kan4ry";
/// It ends with it. In capitals, as a setting's name is: the second line of a broken secret may look like one.
const TAIL: &str = "B1RD";
/// What makes a secret for tokens long enough.
const FILLING: &str = "0123456789abcdef0123456789abcdef";

type Pairs = Vec<(String, String)>;

/// One way to start all programs.
#[derive(Clone, Default)]
struct Case {
    name: String,
    environment: Pairs,
    /// What is in the file that `CONFIG_FILE` names.
    config: Option<Vec<u8>>,
    /// What is in the file that `KAFKA_PROPERTIES_FILE` names.
    properties: Option<String>,
    /// All programs must refuse it, and name this.
    refused: Option<&'static str>,
}

fn pair(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

impl Case {
    fn environment(name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        let environment = vec![pair(name, value.clone())];
        Self { name: format!("environment: {name}={value}"), environment, ..Self::default() }
    }

    fn config(text: impl Into<Vec<u8>>) -> Self {
        let text = text.into();
        Self { name: format!("file: {}", String::from_utf8_lossy(&text)), config: Some(text), ..Self::default() }
    }

    fn properties(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { name: format!("properties: {text}"), properties: Some(text), ..Self::default() }
    }

    fn refused(mut self, named: &'static str) -> Self {
        self.refused = Some(named);
        self
    }

    /// What a program is started with.
    fn settings(&self, folder: &Path, ops_port: u16, port: u16) -> Pairs {
        let mut settings = self.environment.clone();
        for (name, text) in [
            ("CONFIG_FILE", self.config.clone()),
            ("KAFKA_PROPERTIES_FILE", self.properties.clone().map(String::into_bytes)),
        ] {
            if let Some(text) = text {
                let path = folder.join(name);
                std::fs::write(&path, text).unwrap();
                settings.push(pair(name, path.to_str().unwrap()));
            }
        }
        let file = String::from_utf8_lossy(self.config.as_deref().unwrap_or_default()).into_owned();
        for (name, value) in [
            ("JWT_SECRET", FILLING.to_owned()),
            ("KAFKA_BROKERS", "127.0.0.1:1".into()),
            ("REDIS_PORT", "1".into()),
            ("REDIS_URL", "redis://127.0.0.1:1".into()),
            ("REDIS_QUEUE_URL", "redis://127.0.0.1:1".into()),
            ("MONGO_URL", "mongodb://127.0.0.1:1/?directConnection=true".into()),
            ("OPS_ADDR", format!("127.0.0.1:{ops_port}")),
            ("PORT", port.to_string()),
            ("LOG_LEVEL", "debug".into()),
            ("SHUTDOWN_GRACE_MS", "1000".into()),
            ("RUST_BACKTRACE", "1".into()),
        ] {
            let given = settings.iter().any(|(known, _)| known == name) || file.contains(&format!("{name}="));
            let parts = name == "REDIS_URL" && settings.iter().any(|(known, _)| known.starts_with("REDIS_PASS"));
            if !given && !parts {
                settings.push(pair(name, value));
            }
        }
        settings
    }
}

/// Starts a program and returns its exit code, if it ends by itself, and everything that it says.
async fn output(case: &Case, program: &str, folder: &Path) -> (Option<i32>, String) {
    let (ops_port, port) = (free_port().unwrap(), free_port().unwrap());
    let is_service = program != "holdfastctl";
    let args = if is_service { vec![] } else { vec!["--verbose".to_owned(), "doctor".to_owned()] };
    let options = ProgramOptions {
        environment: case.settings(folder, ops_port, port),
        args,
        dir: Some(folder.to_owned()),
        ..ProgramOptions::default()
    };
    let program = Program::start_with(program, options).unwrap();
    let ops = format!("127.0.0.1:{ops_port}");
    let mut said = String::new();
    let ended = loop {
        if let Some(status) = program.ended_within(Duration::from_millis(50)).await {
            break status.code();
        }
        if is_service && http_get(&ops, "/health/live").await.is_ok() {
            let mut answered = 0;
            for path in ["/health", "/health/ready", "/metrics"] {
                // It may end at any moment, which shows above.
                if let Ok((_, body)) = http_get(&ops, path).await {
                    said += &body;
                    answered += 1;
                }
            }
            if answered == 3 {
                program.term_and_wait(Duration::from_secs(30)).await.unwrap();
                break None;
            }
        }
    };
    said += &std::fs::read_to_string(program.log_path()).unwrap();
    (ended, said)
}

async fn check(case: Case) -> Vec<String> {
    let mut faults = Vec::new();
    for program in ["holdfast-gateway", "holdfast-worker", "holdfastctl"] {
        let folder = Folder::temporary("secrets").unwrap();
        let (code, said) = output(&case, program, folder.path()).await;
        let mut fault = |what: &str| faults.push(format!("{program} {what}\n  {}\n  {said}", case.name));
        if [HEAD, TAIL].iter().any(|part| said.contains(part)) {
            fault("says a secret");
        }
        if said.contains("panicked") {
            fault("panics");
        }
        match case.refused {
            // A worker has no use for what only a gateway reads, and says that there is no such setting.
            Some(named) if !said.contains(named) && !said.contains("there is no such setting") => {
                let alien = program == "holdfast-worker" && matches!(named, "REDIS_QUEUE_URL" | "JWT_SECRET" | "PORT");
                if !alien {
                    fault("does not name what is wrong");
                }
            }
            Some(_) if !matches!(code, Some(64 | 2)) => fault("does not refuse it"),
            _ => {}
        }
    }
    faults
}

async fn check_all(cases: Vec<Case>) {
    let count = cases.len();
    let faults: Vec<String> = stream::iter(cases).map(check).buffer_unordered(32).concat().await;
    assert!(faults.is_empty(), "{} faults in {count} cases:\n{}", faults.len(), faults.join("\n\n"));
}

/// What is between the parts of a secret.
const BETWEEN: [&str; 18] =
    ["/", "?", "#", "@", ":", "%", "$x", "${x}", " ", "\t", "'", "\"", "\\", ",", "=", ",x=", " # ", "&"];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn secret(between: &str) -> String {
    format!("{HEAD}{between}{TAIL}{FILLING}")
}

/// Where a secret goes, other than into a file of its own.
const SETTINGS: [(&str, &str); 6] = [
    ("JWT_SECRET", "SECRET"),
    ("REDIS_PASSWORD", "SECRET"),
    ("REDIS_URL", "redis://user:SECRET@127.0.0.1:1"),
    ("REDIS_QUEUE_URL", "rediss://:SECRET@127.0.0.1:1/1"),
    ("MONGO_URL", "mongodb://user:SECRET@127.0.0.1:1/?authSource=admin"),
    ("KAFKA_PROPERTIES", "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=u,sasl.password=SECRET"),
];

#[tokio::test]
async fn sound_settings_and_servers_that_are_away_show_no_secret() {
    let all: String = BETWEEN.concat();
    let value = |(name, form): (&'static str, &str), quote: &str| {
        let secret = match name {
            "KAFKA_PROPERTIES" => secret(&all.replace([',', ' '], "")),
            _ if form.contains("//") => format!("{HEAD}{}{TAIL}", encoded(&all)),
            _ => secret(&all),
        };
        (name.to_owned(), format!("{quote}{}{quote}", form.replace("SECRET", &secret)))
    };
    let without = |left_out: &'static str| SETTINGS.into_iter().filter(move |(name, _)| *name != left_out);
    let mut cases = Vec::new();
    for left_out in ["REDIS_URL", "REDIS_PASSWORD"] {
        cases.push(Case {
            name: format!("environment without {left_out}"),
            environment: without(left_out).map(|setting| value(setting, "")).collect(),
            properties: Some(format!("sasl.password='{}'\n", secret(&all))),
            ..Case::default()
        });
    }
    // What only a gateway reads, a worker would refuse.
    let lines: String = SETTINGS
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "JWT_SECRET" | "REDIS_QUEUE_URL"))
        .map(|setting| value(setting, "'"))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    cases.push(Case { name: "file".into(), ..Case::config(lines) });
    check_all(cases).await;
}

#[tokio::test]
async fn whatever_a_secret_holds_it_is_not_shown() {
    let mut cases = Vec::new();
    for (name, form) in SETTINGS {
        for between in BETWEEN {
            let value = form.replace("SECRET", &secret(between));
            // In the environment, only what has parts is taken apart; the file is read in one way for all settings.
            if form != "SECRET" {
                cases.push(Case::environment(name, &value));
            }
            if matches!(name, "JWT_SECRET" | "MONGO_URL") {
                cases.push(Case::config(format!("{name}={value}\n")));
                cases.push(Case::config(format!("{name}=\"{value}\n")).refused(name));
            }
        }
        let value = form.replace("SECRET", &secret("\n"));
        cases.push(Case::environment(name, value));
        for broken in [secret("\n"), format!("{HEAD}\n{TAIL}="), format!("{HEAD}\n{TAIL}=\n{TAIL}=")] {
            cases.push(Case::config(format!("{name}={}", form.replace("SECRET", &broken))).refused("line 2"));
        }
        let value = form.replace("SECRET", &secret(""));
        cases.push(Case::config(format!("# a comment\n{name}X={value}\n")).refused("line 2: there is no such setting"));
        cases.push(Case::config(format!("{name}: {value}\n")).refused("line 1"));
        cases.push(Case::config(format!("{name} X={value}\n")).refused("line 1"));
        cases.push(Case::config(format!("{name}= {value}\n")).refused(name));
        cases.push(Case::config([format!("{name}={value}").as_bytes(), b"\xff\n"].concat()).refused("line 1"));
    }
    check_all(cases).await;
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_its_text() {
    let mut cases = Vec::new();
    for (name, scheme) in [("REDIS_URL", "redis"), ("REDIS_QUEUE_URL", "rediss"), ("MONGO_URL", "mongodb")] {
        for url in [
            "HEAD",
            "HEAD://TAIL",
            "SCHEME:/u:HEADTAIL@127.0.0.1",
            "SCHEME://u:HEAD/TAIL@127.0.0.1:1",
            "SCHEME://u:1234/HEADTAIL@127.0.0.1:1",
            "SCHEME://u:1234?HEAD=TAIL@127.0.0.1:1",
            "SCHEME://u:HEAD#TAIL@127.0.0.1:1",
            "SCHEME://u:HEAD TAIL@127.0.0.1:1",
            "SCHEME://u:HEAD\nTAIL@127.0.0.1:1",
            "SCHEME://u:HEADTAIL@",
            "SCHEME://127.0.0.1:HEADTAIL",
            "SCHEME://u:HEADTAIL@127.0.0.1:99999",
        ] {
            let url = url.replace("SCHEME", scheme).replace("HEAD", HEAD).replace("TAIL", TAIL);
            cases.push(Case::environment(name, url).refused(name));
        }
    }
    for option in ["maxPoolSize=HEAD", "HEAD=1", "HEAD", "authMechanism=HEAD", "w=HEAD", "readConcernLevel=HEAD"] {
        let url = format!("mongodb://u:{TAIL}@127.0.0.1:1/?{}", option.replace("HEAD", HEAD));
        cases.push(Case::environment("MONGO_URL", url).refused("MONGO_URL"));
    }
    for option in ["/HEAD", "?protocol=HEAD", "/1?HEAD", "#HEAD"] {
        let url = format!("rediss://u:{TAIL}@127.0.0.1:1{}", option.replace("HEAD", HEAD));
        cases.push(Case::environment("REDIS_URL", url));
    }
    // Where no secret belongs, and somebody puts one.
    for (name, value) in [
        ("KAFKA_BROKERS", "SASL_SSL://u:HEAD@127.0.0.1:1"),
        ("REDIS_CLUSTER_NODES", "u:HEAD@127.0.0.1:1"),
        ("REDIS_QUEUE_CLUSTER_NODES", "127.0.0.1:1,u:HEAD@127.0.0.1:1"),
        ("REDIS_PORT", "HEAD"),
        ("KAFKA_PARTITIONS", "HEAD"),
        ("LOG_FORMAT", "HEAD"),
        ("PROFILE", "HEAD"),
    ] {
        cases.push(Case::environment(name, value.replace("HEAD", HEAD)));
    }
    check_all(cases).await;
}

#[tokio::test]
async fn a_kafka_property_that_cannot_be_used_is_named_by_its_place() {
    let mut cases = Vec::new();
    for entry in [
        "sasl.pasword=HEAD",
        "sasl.password=u,HEAD",
        "sasl.password=u,HEAD=TAIL",
        "security.protocol=HEAD",
        "linger.ms=HEAD",
        "HEAD",
    ] {
        let entry = entry.replace("HEAD", HEAD).replace("TAIL", TAIL);
        let all = format!("linger.ms=5,{entry}");
        cases.push(Case::environment("KAFKA_PROPERTIES", all).refused("KAFKA_PROPERTIES: entry"));
        let lines = format!("retries=5\n\n{}", entry.replace(',', "\n"));
        cases.push(Case::properties(lines).refused("KAFKA_PROPERTIES_FILE: line"));
    }
    for text in ["sasl.password=HEAD # TAIL", "sasl.password= HEAD", "sasl.password='HEAD", "HEAD\nTAIL"] {
        let text = text.replace("HEAD", HEAD).replace("TAIL", TAIL);
        cases.push(Case::properties(text).refused("KAFKA_PROPERTIES_FILE: line 1"));
    }
    // What librdkafka refuses only when a client is made, or only in its log.
    for text in [
        "security.protocol=SSL\nssl.key.pem=HEAD",
        "security.protocol=SSL\nssl.certificate.pem=HEAD\nssl.key.password=TAIL",
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.client.secret=HEAD",
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=HEAD,TAIL\ndebug=all",
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.password=HEAD,TAIL",
    ] {
        cases.push(Case::properties(text.replace("HEAD", HEAD).replace("TAIL", TAIL)));
    }
    check_all(cases).await;
}

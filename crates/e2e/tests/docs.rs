//! The tables in the documentation are made from the code: `UPDATE_DOCS=1 cargo test --workspace --test e2e docs` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_service::ops::{self, SignalMetrics, Signals};
use holdfast_service::settings::{Setting, table};

fn check(file: &str, text: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text)?;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(written == text, "docs/{file} is not what the code says; write it anew with UPDATE_DOCS=1");
    Ok(())
}

/// `holdfast_service::settings`, for who writes such a file.
const CONFIGURATION_FILE: &str = include_str!("configuration_file.md");

#[test]
fn settings_are_documented_as_they_are() -> Result<()> {
    let (gateway, worker) =
        (by_name(holdfast_gateway::Config::settings()), by_name(holdfast_worker::config::Config::settings()));
    let of = |this: &BTreeMap<&str, Setting>, other: &BTreeMap<&str, Setting>, both: bool| {
        let chosen: Vec<_> = this
            .iter()
            .filter(|(name, setting)| other.get(*name).is_some_and(|other| same(other, setting)) == both)
            .map(|(_, s)| *s)
            .collect();
        table(&chosen)
    };
    let mut text = String::from(
        "# Settings\n\nEnvironment variables, or `NAME=value` lines of the file that `CONFIG_FILE` names; the environment wins. An empty value is an\n\
         unset one. This page is made from the code (`UPDATE_DOCS=1 cargo test --workspace --test e2e docs`).\n\n",
    );
    text += CONFIGURATION_FILE;
    write!(text, "\n## Both services\n\n{}", of(&gateway, &worker, true))?;
    write!(text, "\n## Gateway\n\n{}", of(&gateway, &worker, false))?;
    write!(text, "\n## Worker\n\n{}", of(&worker, &gateway, false))?;
    check("settings.md", &text)
}

/// `OPS_ADDR` has another default in each service, and so a line in each table.
fn same(one: &Setting, other: &Setting) -> bool {
    one.default == other.default && one.help == other.help
}

fn by_name(settings: impl Iterator<Item = &'static Setting>) -> BTreeMap<&'static str, Setting> {
    settings.map(|setting| (setting.name, *setting)).collect()
}

#[test]
fn metrics_are_documented_as_they_are() -> Result<()> {
    let gateway = ops::registry("gateway")?;
    holdfast_gateway::metrics::Metrics::register(&gateway)?;
    let worker = ops::registry("worker")?;
    // What has a line for each partition or dependency has none before there is one.
    let metrics = holdfast_worker::metrics::Metrics::register(&worker)?;
    metrics.lag(0, 0);
    metrics.dlq_records(Some(0));
    metrics.backlog_ages("messages", &[(0, 0.0)].into());
    for registry in [&gateway, &worker] {
        let one =
            Signals { dependencies: vec![("redis", true)], degraded: vec![("redis", false)], ..Signals::default() };
        SignalMetrics::register(registry)?.set(&one);
        holdfast_redis::RedisMetrics::register(registry)?;
        let breakers = holdfast_breaker::BreakerMetrics::register(registry)?;
        holdfast_breaker::Breaker::new("redis", holdfast_breaker::BreakerSettings::default(), Some(&breakers));
    }
    let mut text = String::from(
        "# Metrics\n\nBoth services export them at `/metrics` on their operators' port, with zero from the start. This page is made from the code\n\
         (`UPDATE_DOCS=1 cargo test --workspace --test e2e docs`).\n",
    );
    for (service, registry) in [("Gateway", gateway), ("Worker", worker)] {
        write!(text, "\n## {service}\n\n| metric | kind | meaning |\n| --- | --- | --- |\n")?;
        for family in registry.gather() {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            writeln!(text, "| `{}` | {kind} | {} |", family.name(), family.help())?;
        }
    }
    check("metrics.md", &text)
}

#[test]
fn the_interface_is_described_as_it_is() -> Result<()> {
    check("openapi.json", &format!("{}\n", holdfast_gateway::rest::description().to_pretty_json()?))?;
    let events = holdfast_gateway::wire::asyncapi::description();
    check("asyncapi.json", &format!("{}\n", serde_json::to_string_pretty(&events)?))?;
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("js/node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let schema = std::fs::read(&schema).context("run npm ci in crates/e2e/js")?;
    let validator = jsonschema::validator_for(&serde_json::from_slice(&schema)?)?;
    let errors: Vec<_> = validator.iter_errors(&events).map(|error| error.to_string()).collect();
    ensure!(errors.is_empty(), "not AsyncAPI 3: {}", errors.join("\n"));
    Ok(())
}

/// The names of an architecture's map: first cells of the table rows below a line that begins so, without backticks and slashes.
fn mapped(text: &str, begins: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with(begins)).skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(','));
    cells
        .map(|name| {
            name.trim()
                .trim_matches('`')
                .trim_end_matches('/')
                .trim_end_matches(".rs")
                .trim_start_matches("crates/")
                .to_owned()
        })
        .collect()
}

#[test]
fn the_map_names_every_crate_and_every_part_of_the_gateway() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    // A module's file and the folder beside it are one part.
    let parts = |folder: &str| -> Result<BTreeSet<String>> {
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        Ok(std::fs::read_dir(root.join(folder))?.map(|entry| entry.map(name)).collect::<Result<_, _>>()?)
    };
    for (folder, begins, own) in
        [("crates", "## Code map", &[][..]), ("crates/gateway/src", "The gateway's folders", &["lib", "main"][..])]
    {
        let (map, parts) = (mapped(&text, begins), parts(folder)?);
        ensure!(parts.len() > own.len() + 5, "{folder} has {parts:?}");
        let missing: Vec<_> =
            parts.iter().filter(|part| !own.contains(&part.as_str()) && !map.contains(*part)).collect();
        ensure!(missing.is_empty(), "ARCHITECTURE.md's map lacks {missing:?} of {folder}");
    }
    Ok(())
}

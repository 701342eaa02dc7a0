//! The file that gives a shell the services' environment: what `holdfastctl` needs beside a running system.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Settings of the caller's that the services have inherited, and that say where or how the same data is reached.
const INHERITED: [&str; 8] =
    ["KAFKA_", "REDIS_", "MONGO_", "CACHE_", "FAILED_QUEUE_", "RECENT_", "RESEND_WINDOW_", "CONFIG_FILE"];

/// Writes `env` into the data folder, for its owner alone, because it holds secrets: a line `export NAME='value'` for each setting.
/// Whatever was there is replaced in one step.
pub(crate) fn write(data: &Path, settings: &[(String, String)]) -> Result<PathBuf> {
    let inherited = std::env::vars().filter(|(name, _)| INHERITED.iter().any(|prefix| name.starts_with(prefix)));
    let path = data.join("env");
    let new = data.join("env.new");
    let put = || -> std::io::Result<()> {
        // An existing file would keep its mode.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text(settings, inherited).as_bytes())?;
        std::fs::rename(&new, &path)
    };
    put().with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

fn text(settings: &[(String, String)], inherited: impl Iterator<Item = (String, String)>) -> String {
    let mut text =
        String::from("# Made by scripts/run: the services' settings, for `. FILE` in a shell. Holds secrets.\n");
    let beside = inherited.filter(|(name, value)| !value.is_empty() && settings.iter().all(|(known, _)| known != name));
    for (name, value) in settings.iter().cloned().chain(beside) {
        let _ = writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_that_reads_the_file_has_every_setting_as_it_was_and_nobody_else_may_read_it() {
        let folder = holdfast_testkit::Folder::temporary("env").unwrap();
        let values =
            ["plain", "", "two words", "$HOME `id` $(id) \\n \"", "it's 'quoted'", "a\nb", "mongodb://h/?a=1&b=2"];
        let settings: Vec<_> =
            (0..).zip(values).map(|(number, value)| (format!("SETTING_{number}"), value.to_owned())).collect();
        // From an earlier run, and open to all.
        std::fs::write(folder.path().join("env"), "export OLD=1\n").unwrap();
        let path = write(folder.path(), &settings).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let script = format!(". '{}' && test -z \"${{OLD-}}\" && env -0", path.display());
        let shell = Command::new("sh").args(["-c", &script]).env_remove("OLD").output().unwrap();
        assert!(shell.status.success(), "{shell:?}");
        let environment = String::from_utf8(shell.stdout).unwrap();
        for (name, value) in &settings {
            assert!(environment.split('\0').any(|pair| pair == format!("{name}={value}")), "{name}");
        }
    }

    #[test]
    fn what_the_caller_gave_the_services_is_in_it_once() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let inherited = [pair("REDIS_URL", "theirs"), pair("KAFKA_PROPERTIES", "a=b"), pair("REDIS_HOST", "")];
        let text = text(&[pair("REDIS_URL", "ours")], inherited.into_iter());
        let exports: Vec<_> = text.lines().filter(|line| line.starts_with("export")).collect();
        assert_eq!(exports, ["export REDIS_URL='ours'", "export KAFKA_PROPERTIES='a=b'"]);
    }
}

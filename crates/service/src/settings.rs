//! Settings from the environment and an optional file, read once.
//!
//! A service describes its settings with [`settings!`](crate::settings!): each with its name, its default and a sentence. The same
//! description parses them, prints the effective configuration and makes the table in the documentation, so the three can't differ.
//! Every error is collected, so that an operator sees all of them at once. An error names the setting, and the line of `CONFIG_FILE` where
//! it stands; never its value, which may be a secret or a part of one.
//!
//! See `docs/decisions/configuration-values.md`, and `docs/decisions/settings-library.md` for libraries that were compared with it.

mod lines;
pub mod properties;
mod url;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use lines::Line;
pub use url::{MongoUrl, RedisUrl};
pub use values::{List, Millis, Seconds, Secret, Value};

/// One setting, as documented.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// Its value when unset; empty means none.
    pub default: &'static str,
    /// Its value when unset in [`Profile::Development`], if another.
    pub development: Option<&'static str>,
    /// What it does.
    pub help: &'static [&'static str],
    /// Whether its value is hidden wherever it would be printed.
    pub secret: bool,
}

/// What a process is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Low thresholds, text logs, a development login.
    Development,
    /// The defaults.
    #[default]
    Production,
    /// The defaults, for automatic tests.
    Testing,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// Where settings are read from, and what has been read so far.
#[derive(Debug, Default)]
pub struct Source {
    profile: Profile,
    environment: Environment,
    path: PathBuf,
    file: BTreeMap<String, Line>,
    errors: Vec<String>,
    effective: Vec<(&'static str, String)>,
}

/// The process's variables. Not printed.
#[derive(Default)]
struct Environment {
    values: BTreeMap<String, String>,
    /// Whose value is no UTF-8.
    unreadable: BTreeSet<String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Source {
    /// The process's environment, and below it the file of `NAME=value` lines that `CONFIG_FILE` names.
    pub fn from_process() -> Self {
        let mut environment = Environment::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.values.insert(name, value)),
                Err(_) => drop(environment.unreadable.insert(name)),
            }
        }
        Self::with(environment)
    }

    /// The given environment. An empty value counts as unset.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::with(Environment { values: environment.into_iter().collect(), ..Environment::default() })
    }

    fn with(mut environment: Environment) -> Self {
        environment.values.retain(|_, value| !value.is_empty());
        let mut source = Self { environment, ..Self::default() };
        if let Some(path) = source.read::<Option<PathBuf>>(&CONFIG_FILE).flatten() {
            let (lines, errors) = lines::read(&path, is_setting);
            source.path = path;
            source.file = lines.into_iter().map(|line| (line.name.clone(), line)).collect();
            let errors: Vec<_> = errors.into_iter().map(|rule| format!("{} {rule}", source.config_file())).collect();
            source.errors.extend(errors);
        }
        source.profile = source.read(&PROFILE).unwrap_or_default();
        source
    }

    /// The same without the file's lines for other settings than these: for reading what was written for another program.
    #[must_use]
    pub fn only<'a>(mut self, settings: impl Iterator<Item = &'a Setting>) -> Self {
        let names: Vec<_> = settings.map(|setting| setting.name).collect();
        self.file.retain(|name, _| names.contains(&name.as_str()));
        self
    }

    /// What the process is run for.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Reads one setting. `None` means that its value is wrong, which [`Source::finish`] reports.
    pub fn read<T: Value>(&mut self, setting: &Setting) -> Option<T> {
        let parsed = self.text(setting).and_then(|text| {
            let value = T::parse(&text)?;
            Ok((value, if setting.secret && !text.is_empty() { "(hidden)".to_owned() } else { text }))
        });
        match parsed {
            Ok((value, shown)) => {
                self.effective.push((setting.name, shown));
                Some(value)
            }
            Err(rule) => {
                self.effective.push((setting.name, String::new()));
                self.refuse(setting.name, &rule);
                None
            }
        }
    }

    /// The setting's text, or what is wrong with how it is written.
    fn text(&self, setting: &Setting) -> Result<String, String> {
        if self.environment.unreadable.contains(setting.name) {
            return Err("is not UTF-8".into());
        }
        let given = match self.environment.values.get(setting.name) {
            Some(value) => value,
            None => self.file.get(setting.name).map_or(Ok(""), |line| line.value(setting.secret))?,
        };
        let default = match self.profile {
            Profile::Development => setting.development.unwrap_or(setting.default),
            _ => setting.default,
        };
        Ok(if given.is_empty() { default } else { given }.to_owned())
    }

    /// States a relation between settings that must hold.
    pub fn require(&mut self, holds: bool, rule: impl Into<String>) {
        if !holds {
            self.errors.push(rule.into());
        }
    }

    /// States what is wrong with one setting's value, which `rule` must not repeat.
    pub fn refuse(&mut self, name: &str, rule: &str) {
        let place = match self.file.get(name) {
            Some(line) if !self.environment.values.contains_key(name) => {
                format!("{} line {}: ", self.config_file(), line.number)
            }
            _ => String::new(),
        };
        self.errors.push(format!("{place}{name}: {rule}"));
    }

    fn config_file(&self) -> String {
        format!("CONFIG_FILE {},", self.path.display())
    }

    /// Ends the reading: the value, or everything that was wrong. A file's line that no setting has read is an error too, as it
    /// is most likely misspelt; or else it is the rest of a value with a line end in it, hence its text is not repeated.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<Effective<T>, SettingsError> {
        let known = |name: &str| self.effective.iter().any(|(read, _)| *read == name);
        let mut unknown: Vec<_> =
            self.file.values().filter(|line| !known(&line.name)).map(|line| line.number).collect();
        unknown.sort_unstable();
        let place = self.config_file();
        self.errors
            .extend(unknown.into_iter().map(|number| format!("{place} line {number}: there is no such setting")));
        match value {
            Some(value) if self.errors.is_empty() => Ok(Effective { value, pairs: self.effective }),
            _ => Err(SettingsError(self.errors)),
        }
    }
}

/// What a setting's name looks like.
fn is_setting(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(allowed)
}

/// Settings, and how they came out.
#[derive(Debug, Clone)]
pub struct Effective<T> {
    /// The settings.
    pub value: T,
    /// Every setting's name and text, secrets hidden.
    pub pairs: Vec<(&'static str, String)>,
}

impl<T> Effective<T> {
    /// One line with every setting that has a value.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (name, value) in self.pairs.iter().filter(|(_, value)| !value.is_empty()) {
            let space = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{space}{name}={value}");
        }
        line
    }
}

/// `CONFIG_FILE`.
pub const CONFIG_FILE: Setting = Setting {
    name: "CONFIG_FILE",
    default: "",
    development: None,
    help: &["A file of `NAME=value` lines, as described above. The environment wins over it."],
    secret: false,
};

/// `PROFILE`.
pub const PROFILE: Setting = Setting {
    name: "PROFILE",
    default: "production",
    development: None,
    help: &["`development` (low thresholds, text logs, a development login and page), `production` or `testing`."],
    secret: false,
};

/// The documentation's table of settings.
pub fn table<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> String {
    let mut table = String::from("| setting | default | meaning |\n| --- | --- | --- |\n");
    for setting in settings {
        let default = match (setting.default, setting.development) {
            ("", None) => String::new(),
            (default, None) => format!("`{default}`"),
            (default, Some(development)) => format!("`{default}` (development: `{development}`)"),
        };
        let help: Vec<_> = setting.help.iter().map(|line| line.trim()).collect();
        let _ = writeln!(table, "| `{}` | {default} | {} |", setting.name, help.join(" "));
    }
    table
}

/// Declares a struct of settings.
///
/// ```
/// holdfast_service::settings! {
///     /// What the example needs.
///     pub struct Example {
///         /// Where to listen.
///         port: u16 = "PORT", "3000";
///         /// How long to wait, in milliseconds.
///         wait: holdfast_service::settings::Millis = "WAIT_MS", "300000", development "1000";
///     }
/// }
/// # use holdfast_service::settings::Source;
/// let mut source = Source::new([("PORT".into(), "80".into())]);
/// let example = Example::read(&mut source);
/// assert_eq!(source.finish(example).unwrap().value.port, 80);
/// ```
#[macro_export]
macro_rules! settings {
    ($(#[$meta:meta])* pub struct $type:ident {
        $($(#[doc = $help:literal])* $field:ident: $value:ty = $name:literal, $default:literal $(, development $development:literal)?;)*
    }) => {
        $(#[$meta])*
        #[allow(unreachable_pub, reason = "who declares settings chooses how far they are seen")]
        #[derive(Debug, Clone)]
        pub struct $type {
            $($(#[doc = $help])* pub $field: $value,)*
        }

        #[allow(unreachable_pub, reason = "as the type itself")]
        impl $type {
            /// Each setting, as documented.
            pub const SETTINGS: &'static [$crate::settings::Setting] = &[$($crate::settings::Setting {
                name: $name,
                default: $default,
                development: $crate::settings!(@development $($development)?),
                help: &[$($help),*],
                secret: <$value as $crate::settings::Value>::SECRET,
            }),*];

            /// Reads every setting; `None` if one is wrong.
            pub fn read(source: &mut $crate::settings::Source) -> Option<Self> {
                let mut settings = Self::SETTINGS.iter();
                // Each is read before the first wrong one ends the reading, so that all are reported.
                $(let $field = settings.next().and_then(|setting| source.read::<$value>(setting));)*
                Some(Self { $($field: $field?),* })
            }
        }
    };
    (@development $development:literal) => { Some($development) };
    (@development) => { None };
}

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;

settings! {
    /// For the tests.
    pub struct Sample {
        /// A number.
        threshold: u32 = "THRESHOLD", "1000", development "10";
        /// A secret.
        password: Option<Secret> = "PASSWORD", "";
        /// A wait.
        wait: Millis = "WAIT_MS", "5";
    }
}

fn load(pairs: &[(&str, &str)]) -> Result<Effective<Sample>, SettingsError> {
    let mut source = Source::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    let sample = Sample::read(&mut source);
    source.finish(sample)
}

#[test]
fn every_error_is_reported_at_once_and_no_secret_is_shown() {
    let SettingsError(errors) = load(&[("THRESHOLD", "x"), ("WAIT_MS", "-1"), ("PASSWORD", "p")]).unwrap_err();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("THRESHOLD: must be a whole number"), "{errors:?}");
    let loaded = load(&[("PASSWORD", "hunter2")]).unwrap();
    assert_eq!(loaded.value.password.as_ref().map(Secret::reveal), Some("hunter2"));
    let line = loaded.line();
    assert!(line.contains("PASSWORD=(hidden)") && !line.contains("hunter2"), "{line}");
}

#[test]
fn a_profile_changes_defaults_and_never_what_was_given() {
    assert_eq!(load(&[]).unwrap().value.threshold, 1000);
    assert_eq!(load(&[("PROFILE", "development")]).unwrap().value.threshold, 10);
    assert_eq!(load(&[("PROFILE", "development"), ("THRESHOLD", "7")]).unwrap().value.threshold, 7);
    assert!(load(&[("PROFILE", "prod")]).is_err());
}

fn with_file(text: &[u8], environment: &[(&str, &str)]) -> Result<Effective<Sample>, Vec<String>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("holdfast-settings-{}-{number}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let loaded = load(&[&[("CONFIG_FILE", file)], environment].concat());
    std::fs::remove_file(&path).unwrap();
    loaded.map_err(|SettingsError(errors)| errors.iter().map(|error| error.replace(file, "FILE")).collect())
}

#[test]
fn a_file_stands_below_the_environment_and_may_not_be_misspelt() {
    let sample = with_file(b"THRESHOLD=5\nWAIT_MS=6\n", &[("WAIT_MS", "7")]).unwrap().value;
    assert_eq!((sample.threshold, sample.wait), (5, Millis(Duration::from_millis(7))));
    let errors = with_file(b"# why\nTRESHOLD=5\n", &[]).unwrap_err();
    assert_eq!(errors, ["CONFIG_FILE FILE, line 2: there is no such setting"]);
}

#[test]
fn another_programs_lines_are_left_out() {
    let path = std::env::temp_dir().join(format!("holdfast-settings-{}", std::process::id()));
    std::fs::write(&path, "TRESHOLD=5\n").unwrap();
    let source = Source::new([("CONFIG_FILE".into(), path.to_str().unwrap().into())]).only(Sample::SETTINGS.iter());
    assert!(source.errors.is_empty() && source.file.is_empty());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_error_names_file_line_and_setting_and_never_the_text() {
    let text = b"THRESHOLD=CANARY\n\nPASSWORD=CANARY # CANARY\nCANARY\nCANARY=\n  CANARY WAIT_MS=1\n";
    let errors = with_file(text, &[("PROFILE", "CANARY")]).unwrap_err();
    assert!(!errors.concat().contains("CANARY"), "{errors:?}");
    let beginnings = [
        "CONFIG_FILE FILE, line 4: is not NAME=value",
        "CONFIG_FILE FILE, line 6: is not NAME=value",
        "PROFILE: must be",
        "CONFIG_FILE FILE, line 1: THRESHOLD: must be a whole number",
        "CONFIG_FILE FILE, line 3: PASSWORD: a # after a blank",
        "CONFIG_FILE FILE, line 5: there is no such setting",
    ];
    assert_eq!(errors.len(), beginnings.len(), "{errors:?}");
    for (error, beginning) in errors.iter().zip(beginnings) {
        assert!(error.starts_with(beginning), "{error}");
    }
}

#[test]
fn a_secret_of_a_file_is_what_is_written_there() {
    for secret in ["pa$x$$w${HOME}ord", "with blank", "a#b", "back\\slash\\$", "qu\"ote's"] {
        let loaded = with_file(format!("PASSWORD={secret}\n").as_bytes(), &[("HOME", "/root"), ("x", "y")]).unwrap();
        assert_eq!(loaded.value.password.as_ref().map(Secret::reveal), Some(secret));
        let quoted = with_file(format!("PASSWORD=' {secret} '\n").as_bytes(), &[]).unwrap();
        assert_eq!(quoted.value.password.as_ref().map(Secret::reveal), Some(&*format!(" {secret} ")));
    }
}

#[test]
fn a_variable_that_is_no_text_is_an_error_and_not_the_default() {
    let mut environment = Environment::default();
    environment.unreadable.insert("PASSWORD".into());
    let mut source = Source::with(environment);
    let sample = Sample::read(&mut source);
    assert_eq!(source.finish(sample).unwrap_err().0, ["PASSWORD: is not UTF-8"]);
}

#[test]
fn neither_a_source_nor_an_effective_setting_shows_a_secret() {
    let path = std::env::temp_dir().join(format!("holdfast-settings-shown-{}", std::process::id()));
    std::fs::write(&path, "PASSWORD=CANARY\n").unwrap();
    let mut source =
        Source::new([("CONFIG_FILE".into(), path.to_str().unwrap().into()), ("X".into(), "CANARY".into())]);
    assert!(!format!("{source:?}").contains("CANARY"));
    let sample = Sample::read(&mut source);
    let effective = source.finish(sample).unwrap();
    assert!(!format!("{effective:?}{}", effective.line()).contains("CANARY"));
    std::fs::remove_file(&path).unwrap();
}

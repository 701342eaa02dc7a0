//! librdkafka's properties: from one text (`KAFKA_PROPERTIES`), or from a file with one a line (`KAFKA_PROPERTIES_FILE`).

use std::path::{Path, PathBuf};

use super::{Value, lines};

/// One property, and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value, which may be a password.
    pub value: String,
    /// `entry 2` or `line 3`.
    pub place: String,
}

impl std::fmt::Debug for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither: the end of a password with a comma in it looks like a name.
        f.write_str(&self.place)
    }
}

/// Properties separated by commas, never printed. Blanks around names and values are left off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties(pub Vec<Property>);

/// A file of properties, one a line; it has been read. A value is all that follows the `=`, as in `CONFIG_FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PropertiesFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub properties: Properties,
}

impl Value for Properties {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let entries = (1..).zip(text.split(',')).filter(|(_, entry)| !entry.trim().is_empty());
        let property = |(number, entry): (usize, &str)| match entry.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok(Property {
                name: name.trim().to_owned(),
                value: value.trim().to_owned(),
                place: format!("entry {number}"),
            }),
            _ => Err(format!(
                "entry {number} is not name=value; a value with a comma in it belongs into KAFKA_PROPERTIES_FILE"
            )),
        };
        entries.map(property).collect::<Result<_, _>>().map(Self)
    }
}

impl Value for PropertiesFile {
    fn parse(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let properties = read(&path).map_err(|rules| rules.join("; "))?;
        Ok(Self { path, properties: Properties(properties) })
    }
}

fn read(path: &Path) -> Result<Vec<Property>, Vec<String>> {
    let (lines, mut errors) = lines::read(path, is_property);
    let mut properties = Vec::new();
    for line in lines {
        let place = format!("line {}", line.number);
        match line.value(true) {
            Ok(value) => properties.push(Property { value: value.to_owned(), name: line.name, place }),
            Err(rule) => errors.push(format!("{place}: {rule}")),
        }
    }
    if errors.is_empty() { Ok(properties) } else { Err(errors) }
}

fn is_property(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(properties: &Properties) -> Vec<(&str, &str)> {
        properties.0.iter().map(|property| (&*property.name, &*property.value)).collect()
    }

    #[test]
    fn a_password_with_a_comma_is_not_cut_silently() {
        let properties = Properties::parse("sasl.username=u, linger.ms=7,\n").unwrap();
        assert_eq!(pairs(&properties), [("sasl.username", "u"), ("linger.ms", "7")]);
        let error = Properties::parse("sasl.password=CAN,ARY,linger.ms=7").unwrap_err();
        assert!(error.starts_with("entry 2 is not name=value") && error.contains("KAFKA_PROPERTIES_FILE"), "{error}");
        assert!(!error.contains("ARY") && !format!("{properties:?}").contains('u'));
    }

    #[test]
    fn a_file_has_one_property_a_line_and_takes_values_as_they_are_written() {
        let path = std::env::temp_dir().join(format!("holdfast-properties-{}", std::process::id()));
        std::fs::write(&path, "# SASL\nsasl.password=a,b=$c d\\n'\n\nsasl.username=' u '\nlinger.ms=7\n").unwrap();
        let file = PropertiesFile::parse(path.to_str().unwrap()).unwrap();
        assert_eq!(
            pairs(&file.properties),
            [("sasl.password", "a,b=$c d\\n'"), ("sasl.username", " u "), ("linger.ms", "7")]
        );
        assert_eq!(file.properties.0[2].place, "line 5");
        std::fs::write(&path, "linger.ms=7\nCANARY\nsasl.password=CANARY # CANARY\nlinger.ms=CANARY\nCAN ARY=1\n")
            .unwrap();
        let error = PropertiesFile::parse(path.to_str().unwrap()).unwrap_err();
        for line in ["line 2: is not", "line 3: a #", "line 4: sets once more what line 1 sets", "line 5: is not"] {
            assert!(error.contains(line), "{error}");
        }
        assert!(!error.contains("CAN"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(PropertiesFile::parse(path.to_str().unwrap()).unwrap_err().contains("can't be read"));
    }
}

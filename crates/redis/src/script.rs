//! Calls to Redis: commands and Lua scripts, with the cluster slot that they belong to.

use redis::{FromRedisValue, ToRedisArgs, Value};

use crate::RedisError;
use crate::hash_slot::slot_of;

/// A [`Script`] as a lazily made static: the flags, then files of the calling crate's `src/scripts/`.
#[macro_export]
macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        std::sync::LazyLock::new(|| {
            const SOURCE: &str =
                concat!($flags, "\n", $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/", $file))),+);
            $crate::Script::new(SOURCE)
        })
    };
}

/// A Lua script. Calls send its hash; a server that does not know it gets the source.
pub struct Script {
    source: &'static str,
    sha: String,
}

impl Script {
    /// A script with this source, its flags in the first line.
    pub fn new(source: &'static str) -> Self {
        Self { source, sha: redis::Script::new(source).get_hash().to_owned() }
    }

    pub(crate) fn sha(&self) -> &str {
        &self.sha
    }

    pub(crate) fn source(&self) -> &'static str {
        self.source
    }

    /// A call with its keys, all in one cluster slot; arguments follow.
    pub fn call(&'static self, keys: &[&str]) -> Call {
        keys.iter().fold(self.with_keys(keys.len()), |call, key| call.key(key))
    }

    /// A call with its keys, in any slots; arguments follow. One server takes it. A cluster takes it only if the keys are in one slot,
    /// which is that of the first.
    pub fn call_across(&'static self, keys: &[String]) -> Call {
        let call = keys.iter().fold(self.with_keys(keys.len()), |call, key| call.arg(key));
        keys.iter().take(1).fold(call, |call, first| call.near(first))
    }

    fn with_keys(&'static self, count: usize) -> Call {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha).arg(count);
        Call { cmd, script: Some(self), slot: None }
    }
}

/// One command of a pipeline, under construction.
pub struct Call {
    pub(crate) cmd: redis::Cmd,
    pub(crate) script: Option<&'static Script>,
    /// The slot of its keys, which decides which node of a cluster gets it; `None`: any node.
    pub(crate) slot: Option<u16>,
}

impl Call {
    /// A command without arguments.
    pub fn new(name: &str) -> Self {
        Self { cmd: redis::cmd(name), script: None, slot: None }
    }

    /// Appends a key. All keys of a call must be in one slot.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.cmd.arg(key);
        self.near(key)
    }

    /// Sends the call to the node that has this key, without appending the key: for commands about a server.
    #[must_use]
    pub fn near(mut self, key: &str) -> Self {
        let slot = slot_of(key.as_bytes());
        debug_assert!(self.slot.is_none_or(|other| other == slot), "a call with keys of two slots: {key}");
        self.slot = Some(slot);
        self
    }

    /// Appends an argument that is not a key.
    #[must_use]
    pub fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }
}

/// Converts an answer into the type that its command answers with.
///
/// # Errors
/// The answer has another shape.
pub fn parse<T: FromRedisValue>(value: Value) -> Result<T, RedisError> {
    let shape = shape(&value);
    // The answer may contain the content of a message, which must not appear in an error.
    redis::from_redis_value(value).map_err(|_| RedisError::unexpected(format!("{shape} that does not fit the command")))
}

/// A readable name of an answer's shape.
fn shape(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) | Value::BigNumber(_) | Value::Double(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::VerbatimString { .. } | Value::Okay => "a text",
        Value::Array(_) | Value::Set(_) | Value::Push { .. } => "a list",
        Value::Map(_) => "a map",
        Value::Boolean(_) => "a yes or no",
        Value::ServerError(_) => "an error",
        _ => "something",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_does_not_fit_is_told_without_its_content_and_without_names_of_types() {
        let answer = Value::Array(vec![Value::BulkString(b"secret \xff".to_vec())]);
        let error = parse::<Vec<String>>(answer).unwrap_err().to_string();
        assert_eq!(error, "redis answered unexpectedly: a list that does not fit the command");
    }
}

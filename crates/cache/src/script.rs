use redis::{FromRedisValue, ToRedisArgs, Value};

use crate::CacheError;
use crate::connection::slot_of;

/// A script made of files that lie in `scripts/`, with its flags.
macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        std::sync::LazyLock::new(|| {
            const SOURCE: &str =
                concat!($flags, "\n", $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/", $file))),+);
            $crate::script::Script::new(SOURCE)
        })
    };
}
pub(crate) use script;

/// A Lua script, sent by its hash.
pub(crate) struct Script {
    source: &'static str,
    sha: String,
}

impl Script {
    pub(crate) fn new(source: &'static str) -> Self {
        Self { source, sha: redis::Script::new(source).get_hash().to_owned() }
    }

    pub(crate) fn sha(&self) -> &str {
        &self.sha
    }

    pub(crate) fn source(&self) -> &'static str {
        self.source
    }

    /// A call with its keys, all of one cluster slot; arguments follow.
    pub(crate) fn call(&'static self, keys: &[&str]) -> Call {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha).arg(keys.len());
        let call = Call { cmd, script: Some(self), slot: None };
        keys.iter().fold(call, |call, key| call.key(key))
    }
}

/// One command of a pipeline.
pub(crate) struct Call {
    pub(crate) cmd: redis::Cmd,
    pub(crate) script: Option<&'static Script>,
    /// The slot of its keys, which decides on the node of a cluster; `None`: any node will do.
    pub(crate) slot: Option<u16>,
}

impl Call {
    pub(crate) fn new(name: &str) -> Self {
        Self { cmd: redis::cmd(name), script: None, slot: None }
    }

    /// An argument that is a key. A call with several has them all in one slot: whoever needs more makes more calls.
    #[must_use]
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.cmd.arg(key);
        self.near(key)
    }

    /// Goes to the node that has this key, without naming it: for what is asked of a server.
    #[must_use]
    pub(crate) fn near(mut self, key: &str) -> Self {
        let slot = slot_of(key.as_bytes());
        debug_assert!(self.slot.is_none_or(|other| other == slot), "a call with keys of two slots: {key}");
        self.slot = Some(slot);
        self
    }

    /// Any other argument.
    #[must_use]
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }
}

/// An answer as what its command answers with.
pub(crate) fn parse<T: FromRedisValue>(value: Value) -> Result<T, CacheError> {
    let shape = shape(&value);
    // The answer may hold a message's content, which belongs in no error.
    redis::from_redis_value(value).map_err(|_| CacheError::unexpected(format!("{shape} that does not fit the command")))
}

/// What an answer is, for people.
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

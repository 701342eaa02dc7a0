use redis::{FromRedisValue, ToRedisArgs, Value};

use crate::CacheError;

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
        for key in keys {
            cmd.arg(*key);
        }
        Call { cmd, script: Some(self) }
    }
}

/// One command of a pipeline.
pub(crate) struct Call {
    pub(crate) cmd: redis::Cmd,
    pub(crate) script: Option<&'static Script>,
}

impl Call {
    pub(crate) fn new(name: &str) -> Self {
        Self { cmd: redis::cmd(name), script: None }
    }

    #[must_use]
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }
}

/// An answer as what its command answers with.
pub(crate) fn parse<T: FromRedisValue>(value: Value) -> Result<T, CacheError> {
    // The answer may hold a message's content, which belongs in no error.
    redis::from_redis_value(value).map_err(|_| CacheError::Unexpected(format!("not a {}", std::any::type_name::<T>())))
}

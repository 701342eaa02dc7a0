//! The services' settings, as this environment gives them, judged by the services' own code.

use holdfast_gateway::auth::Verifier;
use holdfast_service::settings::{SettingsError, Source};

use crate::check::{Check, Status};

/// What a gateway and a worker would say of these settings at their start.
pub fn check(source: impl Fn() -> Source) -> Vec<Check> {
    let mut checks = Vec::new();
    match holdfast_gateway::Config::read(source().only(holdfast_gateway::Config::settings())) {
        Ok(config) => {
            let own = &config.value.own;
            let ladder = format!(
                "SEND_DEADLINE_MS {} above KAFKA_DELIVERY_TIMEOUT_MS {} and FAILED_QUEUE_TIMEOUT_MS {}",
                own.send_deadline.0.as_millis(),
                own.kafka_delivery_timeout.0.as_millis(),
                own.failed_queue_timeout.0.as_millis(),
            );
            checks.push(Check::ok("gateway: deadline ladder", ladder, "each deadline above those below it"));
            let found = match &own.jwt_secret {
                Some(secret) => format!("a secret of {} bytes", secret.reveal().len()),
                None => "a public key".into(),
            };
            let key = Check::ok("gateway: token key", found, "a secret of 32 bytes or more, or a public key");
            checks.push(match Verifier::new(own) {
                Ok(_) => key,
                Err(error) => key.with(Status::Wrong, error),
            });
        }
        Err(errors) => checks.extend(wrong("gateway: settings", errors)),
    }
    match holdfast_worker::config::Config::read(source().only(holdfast_worker::config::Config::settings())) {
        Ok(_) => checks.push(Check::ok("worker: settings", "sound", "sound")),
        Err(errors) => checks.extend(wrong("worker: settings", errors)),
    }
    checks
}

fn wrong(name: &str, SettingsError(errors): SettingsError) -> impl Iterator<Item = Check> {
    let mend = "change the setting; the service would not start";
    errors.into_iter().map(move |error| Check::ok(name, error, "sound").with(Status::Wrong, mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &'static [(&str, &str)]) -> Vec<Check> {
        check(|| Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))))
    }

    #[test]
    fn what_a_service_would_refuse_at_its_start_is_wrong() {
        const SECRET: (&str, &str) = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
        assert!(of(&[SECRET]).iter().all(|check| check.status == Status::Ok));
        let finds = |checks: Vec<Check>, text: &str| {
            checks.iter().any(|check| check.status == Status::Wrong && check.found.contains(text))
        };
        assert!(finds(of(&[("JWT_SECRET", "short")]), "32 bytes"));
        assert!(finds(of(&[]), "JWT_PUBLIC_KEY_FILE"));
        assert!(finds(of(&[SECRET, ("SEND_DEADLINE_MS", "3000")]), "SEND_DEADLINE_MS must be at least"));
        assert!(finds(of(&[SECRET, ("MAX_BUFFER_SIZE", "5")]), "MAX_BUFFER_SIZE"));
    }
}

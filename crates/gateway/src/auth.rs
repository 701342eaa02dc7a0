//! Tokens: who makes a request.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_message::UserId;
use holdfast_service::clock::unix_ms;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::GatewaySettings;
use crate::refusal::{Code, Refusal};

/// How far the clocks of issuer and gateway may differ, in seconds.
const LEEWAY: f64 = 5.0;

/// A user, by a token that was valid when it was checked.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user whom the token names.
    pub user: UserId,
    /// When the token ends, in Unix epoch milliseconds.
    pub expires_at: i64,
}

impl Identity {
    /// Refuses once the token has ended: a connection may outlive it.
    pub fn still_valid(&self) -> Result<&UserId, Refusal> {
        if unix_ms() < self.expires_at { Ok(&self.user) } else { Err(unauthenticated("the token has expired")) }
    }
}

/// Checks tokens: one key, one algorithm family, so that no token chooses how it is checked.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// When it ends. A NumericDate is any JSON number, with a fraction or without (RFC 7519, section 2).
    exp: f64,
    /// Before when it is not valid yet.
    #[serde(default)]
    nbf: f64,
}

impl Verifier {
    /// Takes the key that the settings name; the error says what is wrong with it.
    pub fn new(settings: &GatewaySettings) -> Result<Self, String> {
        let (key, algorithm) = match (&settings.jwt_secret, &settings.jwt_public_key_file) {
            (Some(secret), _) => (DecodingKey::from_secret(secret.reveal().as_bytes()), Algorithm::HS256),
            (None, Some(path)) => {
                let pem =
                    std::fs::read(path).map_err(|error| format!("JWT_PUBLIC_KEY_FILE={}: {error}", path.display()))?;
                public_key(&pem).ok_or_else(|| {
                    format!("JWT_PUBLIC_KEY_FILE={}: must be the PEM of an RSA or P-256 public key", path.display())
                })?
            }
            (None, None) => return Err("one of JWT_SECRET and JWT_PUBLIC_KEY_FILE must be set".into()),
        };
        let mut validation = Validation::new(algorithm);
        // `Claims` requires the dates and `verify` compares them: the library takes a date beyond a u64 for no date.
        validation.validate_exp = false;
        let mut required = vec!["sub"];
        match &settings.jwt_audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &settings.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        // Otherwise a token that leaves a claim out would pass its check.
        validation.set_required_spec_claims(&required);
        Ok(Self { key, validation })
    }

    /// The identity in a token, or a refusal that doesn't say more than it must.
    pub fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| unauthenticated(&format!("the token is not valid: {error}")))?
            .claims;
        if has_critical_extensions(token) {
            return Err(unauthenticated("the token has critical extensions (crit), and none is supported"));
        }
        let user = UserId::parse(&claims.sub).map_err(|error| unauthenticated(&format!("sub: {error}")))?;
        // A date beyond what an i64 holds becomes its greatest or least value.
        let (expires_at, not_before) = (milliseconds(claims.exp + LEEWAY), milliseconds(claims.nbf - LEEWAY));
        if unix_ms() < not_before {
            return Err(unauthenticated("the token is not valid yet"));
        }
        let identity = Identity { user, expires_at };
        identity.still_valid()?;
        Ok(identity)
    }
}

fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

/// Whether the header says `crit`, whatever it says there: a recipient must refuse extensions that it does not implement, and a `crit`
/// that is no list of names makes the token invalid (RFC 7515, section 4.1.11).
fn has_critical_extensions(token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| serde_json::from_slice::<Map<String, Value>>(&header).ok());
    header.is_none_or(|header| header.contains_key("crit"))
}

fn public_key(pem: &[u8]) -> Option<(DecodingKey, Algorithm)> {
    let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
    rsa.or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256))).ok()
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use holdfast_service::settings::Source;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn verifier(more: &[(&str, String)]) -> Verifier {
        let secret = ("JWT_SECRET", String::from_utf8_lossy(SECRET).into_owned());
        let by_file = more.iter().any(|(name, _)| *name == "JWT_PUBLIC_KEY_FILE");
        let pairs = more.iter().cloned().chain((!by_file).then_some(secret));
        let config = Config::read(Source::new(pairs.map(|(name, value)| (name.to_owned(), value)))).unwrap();
        Verifier::new(&config.value.own).unwrap()
    }

    fn key_file(name: &str) -> String {
        format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, key).unwrap()
    }

    fn in_an_hour() -> i64 {
        unix_ms() / 1000 + 3600
    }

    #[test]
    fn a_public_key_takes_its_own_algorithm_only() {
        let pem = |name: &str| std::fs::read(key_file(name)).unwrap();
        let rsa = EncodingKey::from_rsa_pem(&pem("rsa.private.pem")).unwrap();
        let ec = EncodingKey::from_ec_pem(&pem("ec.private.pem")).unwrap();
        let claims = json!({ "sub": "alice", "exp": in_an_hour() });
        for (public, good, bad) in [
            ("rsa.public.pem", (Algorithm::RS256, &rsa), (Algorithm::ES256, &ec)),
            ("ec.public.pem", (Algorithm::ES256, &ec), (Algorithm::RS256, &rsa)),
        ] {
            let verifier = verifier(&[("JWT_PUBLIC_KEY_FILE", key_file(public))]);
            assert_eq!(verifier.verify(&sign(good.0, good.1, &claims)).unwrap().user.as_str(), "alice");
            assert!(verifier.verify(&sign(bad.0, bad.1, &claims)).is_err());
            // The classic: the public key's text used as a shared secret.
            let forged = sign(Algorithm::HS256, &EncodingKey::from_secret(&pem(public)), &claims);
            assert_eq!(verifier.verify(&forged).unwrap_err().code, Code::Unauthenticated);
        }
    }

    #[test]
    fn what_a_token_must_say_is_checked() {
        let key = EncodingKey::from_secret(SECRET);
        let hs256 = |claims: &Value| sign(Algorithm::HS256, &key, claims);
        let open = verifier(&[]);
        let later = in_an_hour();
        assert!(open.verify(&hs256(&json!({ "sub": "alice", "exp": later, "aud": "any" }))).is_ok());
        for claims in [
            json!({ "sub": "alice" }),
            json!({ "exp": later }),
            json!({ "sub": "a:b", "exp": later }),
            json!({ "sub": 7, "exp": later }),
            json!({ "sub": "alice", "exp": later - 7200 }),
            json!({ "sub": "alice", "exp": later, "nbf": later }),
        ] {
            assert!(open.verify(&hs256(&claims)).is_err(), "{claims}");
        }
        let strict = verifier(&[("JWT_AUDIENCE", "chat".into()), ("JWT_ISSUER", "us".into())]);
        assert!(strict.verify(&hs256(&json!({ "sub": "alice", "exp": later, "aud": "chat", "iss": "us" }))).is_ok());
        assert!(strict.verify(&hs256(&json!({ "sub": "alice", "exp": later, "aud": "other", "iss": "us" }))).is_err());
        assert!(strict.verify(&hs256(&json!({ "sub": "alice", "exp": later }))).is_err());
    }

    fn with_header(header: &str, claims: &Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(header), part(&claims.to_string()));
        let key = EncodingKey::from_secret(SECRET);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    #[test]
    fn a_critical_extension_makes_a_token_invalid() {
        let claims = json!({ "sub": "alice", "exp": in_an_hour() });
        let verifier = verifier(&[]);
        for header in [r#"{"alg":"HS256"}"#, r#"{"typ":"JWT","alg":"HS256","kid":"1","b64":true,"crit2":["b64"]}"#] {
            assert!(verifier.verify(&with_header(header, &claims)).is_ok(), "{header}");
        }
        for header in [
            r#"{"alg":"HS256","crit":["b64"],"b64":true}"#,
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            r#"{"alg":"HS256","crit":["http://example.org/unknown"],"http://example.org/unknown":1}"#,
            r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
            r#"{"alg":"HS256","crit":["alg"]}"#,
            r#"{"alg":"HS256","crit":[]}"#,
            r#"{"alg":"HS256","crit":null}"#,
            r#"{"alg":"HS256","crit":"b64"}"#,
            r#"{"alg":"HS256","crit":{}}"#,
            r#"{"alg":"HS256","cr\u0069t":["b64"]}"#,
            r#"{"crit":["b64"],"alg":"HS256","crit":[]}"#,
        ] {
            let refusal = verifier.verify(&with_header(header, &claims)).expect_err(header);
            assert_eq!(refusal.code, Code::Unauthenticated, "{header}");
        }
    }

    #[test]
    fn a_date_is_any_number_however_far() {
        let (key, now) = (EncodingKey::from_secret(SECRET), unix_ms() as f64 / 1000.0);
        let verify = |claims: &str| {
            let claims: Value = serde_json::from_str(claims).unwrap();
            verifier(&[]).verify(&sign(Algorithm::HS256, &key, &claims))
        };
        for exp in ["1e300", "1e19", "18446744073709551616", "1e18", "9007199254740993", "2e10"] {
            let identity = verify(&format!(r#"{{"sub":"alice","exp":{exp}}}"#)).expect(exp);
            assert!(identity.expires_at > 1_000_000_000_000_000 || exp == "2e10", "{exp}: {identity:?}");
            assert!(identity.still_valid().is_ok(), "{exp}");
        }
        let soon = verify(&format!(r#"{{"sub":"alice","exp":{}}}"#, now + 60.5)).unwrap();
        assert_eq!(soon.expires_at, ((now + 60.5 + LEEWAY) * 1000.0) as i64, "with its fraction");
        for (exp, nbf) in [
            ("-1", "0"),
            ("-1e300", "0"),
            ("0", "0"),
            ("-0.0", "0"),
            ("1.5", "0"),
            (r#""1e300""#, "0"),
            (r#""NaN""#, "0"),
            (r#""""#, "0"),
            ("null", "0"),
            ("true", "0"),
            ("[1e300]", "0"),
            ("{}", "0"),
            ("1e300", "1e300"),
            ("1e300", "1e19"),
            ("1e300", r#""0""#),
            ("1e300", "null"),
        ] {
            let refused = verify(&format!(r#"{{"sub":"alice","exp":{exp},"nbf":{nbf}}}"#));
            assert_eq!(refused.expect_err(exp).code, Code::Unauthenticated, "{exp} {nbf}");
        }
        assert!(verify(r#"{"sub":"alice","exp":1e300,"nbf":-1e300}"#).is_ok());
        assert!(verify(&format!(r#"{{"sub":"alice","exp":1e300,"nbf":{}}}"#, now + 1.0)).is_ok(), "within the leeway");
        assert!(verify(&format!(r#"{{"sub":"alice","exp":1e300,"nbf":{}}}"#, now + 60.0)).is_err());
        assert!(verify(&format!(r#"{{"sub":"alice","exp":{}}}"#, now - 1.0)).is_ok(), "within the leeway");
        assert!(verify(&format!(r#"{{"sub":"alice","exp":{}}}"#, now - 60.0)).is_err());
    }

    #[test]
    fn an_identity_ends_with_its_token() {
        let ended = Identity { user: UserId::parse("alice").unwrap(), expires_at: unix_ms() - 1 };
        assert_eq!(ended.still_valid().unwrap_err().code, Code::Unauthenticated);
    }
}

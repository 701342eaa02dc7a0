//! Who is asking: the verified token.

use holdfast_message::UserId;
use holdfast_service::clock::unix_ms;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use crate::config::GatewaySettings;
use crate::error::{Code, Refusal};

/// How far the clocks of issuer and gateway may differ, in seconds.
const LEEWAY_SECS: u64 = 5;

/// A user, by a token that was valid when it was checked.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who.
    pub user: UserId,
    /// When the token ends, in Unix epoch milliseconds.
    expires_at: i64,
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
    exp: u64,
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
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "sub"]);
        match &settings.jwt_audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &settings.jwt_issuer {
            validation.set_issuer(&[issuer]);
        }
        Ok(Self { key, validation })
    }

    /// The identity in a token, or a refusal that doesn't say more than it must.
    pub fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| unauthenticated(&format!("the token is not valid: {error}")))?
            .claims;
        let user = UserId::parse(&claims.sub).map_err(|error| unauthenticated(&format!("sub: {error}")))?;
        let expires_at = i64::try_from(claims.exp.saturating_add(LEEWAY_SECS).saturating_mul(1000)).unwrap_or(i64::MAX);
        Ok(Identity { user, expires_at })
    }
}

fn public_key(pem: &[u8]) -> Option<(DecodingKey, Algorithm)> {
    let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
    rsa.or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256))).ok()
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, message)
}

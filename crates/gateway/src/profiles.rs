//! Profiles of users: stored in MongoDB, cached for a day and fresh for some minutes.
//!
//! Anybody may read a profile, only its user may write it. A write goes to the store first (`w: majority`), then the cached copies are
//! forgotten everywhere; a reader elsewhere may see the old one for [`BOUND`](holdfast_redis::aside::BOUND) longer. With the
//! store away profiles are what is cached, stale or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_keys::{Cached, Family, Keys, LockName};
use holdfast_message::draft::{MAX_IMAGE_URL, is_https};
use holdfast_message::{Invalid, UserId, is_visible};
use holdfast_redis::Locks;
use holdfast_redis::aside::{Aside, AsideError, Backend, PATIENCE, Policy, Source, Warmed};
use holdfast_service::clock::unix_ms;
use holdfast_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::guarded_store::{self, GuardedStore};
use crate::refusal::{Code, Refusal};

/// The longest name, in Unicode characters.
pub const MAX_NAME: usize = 64;
/// The longest `about`, in Unicode characters.
pub const MAX_ABOUT: usize = 500;

/// How long a profile is fresh.
const FRESH: Duration = Duration::from_secs(300);
/// How long it is known that a user has none.
const NEGATIVE: Duration = Duration::from_secs(30);
/// What profiles may take in a gateway's memory: some ten thousand.
const MEMORY: u64 = 8 << 20;
/// The latest messages whose senders' profiles are loaded at start.
const WARM: u32 = 1000;
/// Between attempts to find out who they are.
const WARM_AGAIN: Duration = Duration::from_secs(2);

/// A user's profile, as clients write and read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// What the user is to be called: 1 to 64 characters.
    #[schema(min_length = 1, max_length = 64)]
    pub display_name: String,
    /// An https address of a picture, never fetched by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub avatar_url: Option<String>,
    /// A text about the user: at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub about: Option<String>,
}

/// Profiles, cached. Cheap to clone.
#[derive(Clone)]
pub struct Profiles {
    stored: GuardedStore,
    cached: Aside<StoredProfiles>,
    /// The key of the lock that one process holds while it warms profiles.
    warming: Arc<str>,
}

/// Loads profiles from the store.
pub struct StoredProfiles(GuardedStore);

/// A profile as it is cached: positional, so nothing may be left out.
#[derive(Debug, Serialize, Deserialize)]
pub struct CachedProfile {
    display_name: String,
    avatar_url: Option<String>,
    about: Option<String>,
}

impl Source for StoredProfiles {
    type Key = UserId;
    type Value = CachedProfile;
    type Error = StoreError;
    type Names = Keys;
    const NAME: &'static str = "profile";
    const SHAPE: u8 = 1;

    fn cached(&self, user: &UserId) -> Cached {
        Cached::Profile(user.clone())
    }

    async fn load(&self, users: &[UserId]) -> Result<HashMap<UserId, CachedProfile>, StoreError> {
        let found = self.0.call(async |store| store.profiles(users).await).await?;
        let cached = |profile: holdfast_store::Profile| CachedProfile {
            display_name: profile.display_name,
            avatar_url: profile.avatar_url,
            about: profile.about,
        };
        Ok(found.into_iter().map(|(user, profile)| (user, cached(profile))).collect())
    }
}

impl Profiles {
    /// Profiles in this store, cached for so long.
    pub fn new(backend: &Backend<Keys>, stored: GuardedStore, ttl: Duration) -> Self {
        let policy = Policy {
            fresh: FRESH.min(ttl),
            ttl,
            negative: NEGATIVE.min(ttl),
            jitter: 0.1,
            memory_bytes: MEMORY,
            patience: PATIENCE,
            unsubscribed_ttl: Duration::ZERO,
        };
        let cached = Aside::new(backend, StoredProfiles(stored.clone()), policy);
        let warming = backend.names().lock(&LockName::of_warming(Family::Profile)).into();
        Self { stored, cached, warming }
    }

    /// A user's profile.
    pub async fn get(&self, user: &UserId) -> Result<Profile, Refusal> {
        let found = self.cached.get(user).await.map_err(|error| unavailable(user, &error))?;
        let profile = found.value.ok_or_else(|| Refusal::new(Code::NotFound, "no such profile"))?;
        Ok(Profile {
            display_name: profile.display_name.clone(),
            avatar_url: profile.avatar_url.clone(),
            about: profile.about.clone(),
        })
    }

    /// Stores a user's profile, and forgets the one before everywhere. `asker` must be the user.
    pub async fn put(&self, asker: &UserId, user: &UserId, profile: Profile) -> Result<Profile, Refusal> {
        if asker != user {
            return Err(Refusal::new(Code::Forbidden, "only oneself's profile can be written"));
        }
        let profile = profile.checked()?;
        let (profiles, user, stored) = (self.clone(), user.clone(), profile.clone());
        guarded_store::run_detached(async move { profiles.write(&user, stored).await }).await?;
        Ok(profile)
    }

    async fn write(&self, user: &UserId, profile: Profile) -> Result<(), Refusal> {
        let Profile { display_name, avatar_url, about } = profile;
        let profile = holdfast_store::Profile { display_name, avatar_url, about };
        let written = self.stored.call(async |store| store.put_profile(user, &profile, unix_ms()).await).await;
        // A write that was not answered may have happened.
        if let Err(error) = self.cached.invalidate(std::slice::from_ref(user)).await {
            tracing::warn!(user_id = %user, %error, "a profile's invalidation waits for the cache");
        }
        written.map_err(|error| guarded_store::refusal_of(&error, "the profile can't be stored now"))
    }

    /// Caches these users' profiles.
    pub async fn warm(&self, users: &[UserId]) -> Warmed {
        self.cached.warm(users).await
    }

    /// Caches the profiles of those who were active last, as soon as the store can say who they are. Of gateways that start together
    /// one does it.
    pub async fn warm_up(self, store: Store, locks: Locks) {
        let users = loop {
            match store.last_senders(WARM).await {
                Ok(users) => break users,
                Err(error) => tracing::debug!(%error, "waiting for mongodb to warm the profiles"),
            }
            tokio::time::sleep(WARM_AGAIN).await;
        };
        let lock = match locks.acquire(&[self.warming.to_string()]).await {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return tracing::info!("another gateway is warming the profiles"),
            Err(error) => {
                tracing::debug!(%error, "the profiles are warmed without a lock");
                None
            }
        };
        let Warmed { warm, absent, unfilled, failed } = self.warm(&users).await;
        if let Some(lock) = lock {
            // Otherwise it ends by itself.
            let _ = lock.release().await;
        }
        tracing::info!(warm, absent, unfilled, failed, "warmed the profiles of those who were active last");
    }
}

impl Profile {
    /// Within every limit; what is empty is absent.
    fn checked(self) -> Result<Self, Invalid> {
        let display_name = self.display_name.trim().to_owned();
        let avatar_url = self.avatar_url.filter(|url| !url.is_empty());
        if !is_visible(&display_name)
            || display_name.chars().count() > MAX_NAME
            || display_name.chars().any(char::is_control)
        {
            return Err(Invalid::new("displayName", format!("1 to {MAX_NAME} printable characters")));
        }
        if avatar_url.as_ref().is_some_and(|url| url.len() > MAX_IMAGE_URL || !is_https(url)) {
            return Err(Invalid::new("avatarUrl", format!("an https URL of at most {MAX_IMAGE_URL} bytes")));
        }
        let is_text = |c: char| !c.is_control() || c == '\n';
        if self.about.as_ref().is_some_and(|text| text.chars().count() > MAX_ABOUT || !text.chars().all(is_text)) {
            return Err(Invalid::new("about", format!("at most {MAX_ABOUT} printable characters and line breaks")));
        }
        Ok(Self { display_name, avatar_url, about: self.about.filter(|text| is_visible(text)) })
    }
}

fn unavailable(user: &UserId, error: &AsideError<StoreError>) -> Refusal {
    tracing::debug!(user_id = %user, %error, "a profile can't be read");
    match error {
        AsideError::Source(error) => guarded_store::refusal_of(error, "the profile can't be read now"),
        AsideError::Unanswered => Refusal::unavailable("the profile can't be read now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, avatar: Option<&str>, about: Option<&str>) -> Result<Profile, &'static str> {
        let profile =
            Profile { display_name: name.into(), avatar_url: avatar.map(Into::into), about: about.map(Into::into) };
        profile.checked().map_err(|invalid| invalid.field)
    }

    #[test]
    fn a_profile_is_within_every_limit_and_what_is_empty_is_absent() {
        let profile = checked(" Änne ", Some(""), Some(" ")).unwrap();
        assert_eq!(profile, Profile { display_name: "Änne".into(), avatar_url: None, about: None });
        assert!(checked(&"é".repeat(64), Some("https://example.org/a.png"), Some(&"é\n".repeat(250))).is_ok());
        assert_eq!(checked("x", None, Some("\u{200b}\u{2800}\n")).unwrap().about, None);
        for name in ["", " ", "a\u{7}b", "\u{200b}", "\u{2800}", "\u{3164}", "\u{e0020}", "\u{0}", &"x".repeat(65)] {
            assert_eq!(checked(name, None, None), Err("displayName"));
        }
        for url in ["http://example.org", "https://", "javascript:alert(1)"] {
            assert_eq!(checked("x", Some(url), None), Err("avatarUrl"));
        }
        for about in ["\u{0}", &"x".repeat(501)] {
            assert_eq!(checked("x", None, Some(about)), Err("about"));
        }
    }
}

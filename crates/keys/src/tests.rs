use std::collections::HashMap;

use holdfast_message::MessageId;
use proptest::prelude::*;

use super::*;

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn group() -> ChatId {
    ChatId::parse("g_00000000-0000-0000-0000-0000000000ab").unwrap()
}

#[test]
fn the_names_are_the_contracts() {
    let keys = Keys::default();
    assert_eq!(keys, Keys::new("chat", "v1", ":", MAX_KEY_LENGTH).unwrap());
    let chat = ChatId::parse("alice:bob").unwrap();
    let alice = user("alice");
    assert_eq!(keys.recent(&chat), "chat:recent:{alice:bob}");
    assert_eq!(keys.recent_ids(&chat), "chat:recent:{alice:bob}:ids");
    assert_eq!(keys.recent_head(&chat), "chat:recent:{alice:bob}:head");
    assert_eq!(keys.failed(&chat), "chat:failed:{alice:bob}");
    assert_eq!(keys.failed_dead(&chat), "chat:failed:{alice:bob}:dead");
    assert_eq!(keys.failed_index(), "chat:failed:index");
    assert_eq!(keys.channel(&Channel::User(alice.clone())), "chat:v1:user:{alice}");
    assert_eq!(keys.rate_limit(&alice), "chat:v1:ratelimit:{alice}");
    assert_eq!(keys.rate_limit_of(&alice, "history"), "chat:v1:ratelimit:{alice}:history");
    assert_eq!(keys.beacon("7f"), "chat:v1:beacon:{7f}");
    assert_eq!(keys.invalidations(), "chat:v1:invalidations");
    assert_eq!(keys.online(), "chat:v1:online");
    assert_eq!(keys.devices(&alice), "chat:v1:devices:{chat:v1:online}:alice");
    assert_eq!(keys.typing(&chat, &alice), "chat:v1:typing:{alice:bob}:{alice}");
    assert_eq!(keys.conversations(&alice), "chat:v1:convlist:{alice}");
    assert_eq!(keys.unread(&alice), "chat:v1:unread:{alice}");
    assert_eq!(keys.value(&Cached::Profile(alice.clone())), "chat:v1:profile:user:{alice}");
    assert_eq!(keys.lease(&Cached::Profile(alice.clone())), "chat:v1:profile:user:{alice}:lease");
    assert_eq!(keys.value(&Cached::Relationship(Pair::of(&user("bob"), &alice))), "chat:v1:rel:{alice:bob}");
    assert_eq!(keys.value(&Cached::Members(group())), "chat:v1:members:{g_00000000-0000-0000-0000-0000000000ab}");
    assert_eq!(
        keys.value(&Cached::Message(MessageId::from_bytes([7; 16]))),
        "chat:v1:message:{07070707-0707-0707-0707-070707070707}"
    );
    assert_eq!(keys.lock(&LockName::parse("nightly:sweep").unwrap()), "chat:v1:lock:{nightly:sweep}");
    assert_eq!(keys.lock(&LockName::of_warming(Family::Profile)), "chat:v1:lock:{warm:profile}");
}

#[test]
fn a_failed_queue_is_known_by_its_key_and_a_dead_list_is_none() {
    let keys = Keys::default();
    let chat = ChatId::parse("alice:bob").unwrap();
    assert_eq!(keys.chat_of_failed(&keys.failed(&chat)), Some(chat.clone()));
    assert_eq!(keys.chat_of_dead(&keys.failed_dead(&chat)), Some(chat.clone()));
    assert_eq!(keys.chat_of_dead(&keys.failed(&chat)), None);
    for key in [keys.failed_dead(&chat), keys.failed_index(), "chat:failed:{x}".into(), "chat:failed:".into()] {
        assert_eq!(keys.chat_of_failed(&key), None, "{key}");
    }
}

#[test]
fn a_channel_is_known_by_its_name() {
    let keys = Keys::default();
    for channel in [Channel::User(user("al.ice")), Channel::Group(group())] {
        assert_eq!(keys.parse_channel(&keys.channel(&channel)), Some(channel));
    }
    assert_eq!(keys.parse_channel(&keys.beacon("7f")), None);
}

#[test]
fn no_setting_can_form_another_key() {
    for (prefix, version, separator) in [
        ("", "v1", ":"),
        ("a{b", "v1", ":"),
        ("a b", "v1", ":"),
        ("chat", "*", ":"),
        ("chat", "v1", "}"),
        ("chat", "failed", ":"),
        ("chat", "recent", "/"),
    ] {
        assert!(Keys::new(prefix, version, separator, MAX_KEY_LENGTH).is_err(), "{prefix} {version} {separator}");
    }
    assert_eq!(Keys::new("chat", "v1", ":", 100), Err(KeyError::TooLong(100)));
}

#[test]
fn no_key_is_longer_than_promised() {
    let long = |letter: &str| user(&letter.repeat(MAX_USER_ID));
    let (a, b) = (long("a"), long("b"));
    let chat = ChatId::direct(&a, &b).unwrap();
    let pair = Cached::Relationship(Pair::of(&a, &b));
    let keys = Keys::new(&"p".repeat(32), &"v".repeat(11), ":", MAX_KEY_LENGTH).unwrap();
    let lock = LockName::parse(&"l".repeat(MAX_LOCK_NAME)).unwrap();
    let lengths = [
        keys.recent_head(&chat),
        keys.failed_dead(&chat),
        keys.channel(&Channel::User(a.clone())),
        keys.lease(&pair),
        keys.lock(&lock),
        keys.typing(&chat, &a),
        keys.devices(&a),
    ]
    .map(|key| key.len());
    assert!(lengths.iter().all(|length| *length <= MAX_KEY_LENGTH), "{lengths:?}");
    assert_eq!(lengths.iter().max(), Some(&MAX_KEY_LENGTH), "the longest is as long as was reckoned");
    assert!(Keys::new(&"p".repeat(32), &"v".repeat(12), ":", MAX_KEY_LENGTH).is_err());
}

#[test]
fn names_that_could_form_another_key_are_refused() {
    let long = "x".repeat(10_000);
    for text in ["", "a b", "a*", "{a}", "a}", "a\n", "ä", "a\0", "a?", "a[b]", "a\\", "a/b", "a|b", &long] {
        assert_eq!(LockName::parse(text), Err(LockNameError), "{text:?}");
        assert_eq!(MessageId::parse(text), None, "{text:?}");
    }
}

#[test]
fn nothing_else_has_a_name_of_ours() {
    let keys = Keys::default();
    for name in [
        "",
        "chat:",
        "chat:v1:",
        "chat:v1:unread:alice",
        "chat:v1:unread:{alice}:",
        "chat:v1:unread:{alice}:lease",
        "chat:v1:unread:{al{ice}",
        "chat:v1:profile:{alice}",
        "chat:v1:profile:user:{alice}:old",
        "chat:v1:rel:{bob:alice}",
        "chat:v1:members:{G_00000000-0000-0000-0000-0000000000ab}",
        "chat:v1:message:{07070707070707070707070707070707}",
        "chat:v1:typing:{alice:bob}:alice",
        "chat:v1:typing:{alice:bob}",
        "chat:v1:devices:{alice}:alice",
        "chat:v1:devices:{chat:v1:online}",
        "chat:v1:online:",
        "chat:v1:beacon:{a b}",
        "chat:recent:{alice}",
        "chat:recent:{alice:bob}:tail",
        "chat:recent:index",
        "xchat:v1:online",
    ] {
        assert_eq!(keys.parse(name), None, "{name}");
    }
}

#[test]
fn every_family_has_one_name() {
    for family in Family::ALL {
        assert_eq!(Family::parse(family.as_str()), Some(family));
    }
    assert_eq!(Family::parse("*"), None);
}

fn user_id() -> impl Strategy<Value = UserId> {
    prop_oneof![
        // Few, so that equal ones meet; and any, up to the longest.
        "[ab.]{1,2}|lease|index|online|recent".prop_map(|text| user(&text)),
        "[A-Za-z0-9_.-]{1,64}".prop_map(|text| user(&text)),
    ]
}

fn chat_id() -> impl Strategy<Value = ChatId> {
    prop_oneof![
        (user_id(), user_id()).prop_filter_map("two users", |(a, b)| ChatId::direct(&a, &b).ok()),
        any::<u128>().prop_map(|bits| ChatId::parse(&format!("g_{}", uuid::Uuid::from_u128(bits))).unwrap()),
    ]
}

fn cached() -> impl Strategy<Value = Cached> {
    prop_oneof![
        user_id().prop_map(Cached::Profile),
        (user_id(), user_id()).prop_map(|(a, b)| Cached::Relationship(Pair::of(&a, &b))),
        chat_id().prop_map(Cached::Members),
        any::<[u8; 16]>().prop_map(|bytes| Cached::Message(MessageId::from_bytes(bytes))),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        chat_id().prop_map(Kind::Recent),
        chat_id().prop_map(Kind::RecentIds),
        chat_id().prop_map(Kind::RecentHead),
        chat_id().prop_map(Kind::Failed),
        chat_id().prop_map(Kind::FailedDead),
        chat_id().prop_map(Kind::FailedReplayed),
        Just(Kind::FailedIndex),
        user_id().prop_map(|user| Kind::Channel(Channel::User(user))),
        chat_id().prop_map(|chat| Kind::Channel(Channel::Group(chat))),
        "[0-9a-f]{1,16}".prop_map(Kind::Beacon),
        Just(Kind::Invalidations),
        user_id().prop_map(Kind::RateLimit),
        (user_id(), "[A-Za-z0-9]{1,32}").prop_map(|(user, event)| Kind::EventLimit(user, event)),
        Just(Kind::Online),
        user_id().prop_map(Kind::Devices),
        (chat_id(), user_id()).prop_map(|(chat, user)| Kind::Typing(chat, user)),
        user_id().prop_map(Kind::Conversations),
        user_id().prop_map(Kind::Unread),
        cached().prop_map(Kind::Value),
        cached().prop_map(Kind::Lease),
        "[A-Za-z0-9_.:-]{1,160}".prop_map(|name| Kind::Lock(LockName::parse(&name).unwrap())),
    ]
}

fn space() -> impl Strategy<Value = Keys> {
    ("[a-z.]{1,3}", "[a-z0-9.]{1,3}", "[:/|]")
        .prop_map(|(prefix, version, separator)| Keys::new(&prefix, &version, &separator, MAX_KEY_LENGTH).unwrap())
}

/// What Redis does with `*`, `?`, classes and escapes, but for ranges within classes.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        Some((b'?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((b'[', rest)) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            !text.is_empty() && rest[..end].contains(&text[0]) && glob(&rest[end + 1..], &text[1..])
        }
        Some((b'\\', [escaped, rest @ ..])) => text.first() == Some(escaped) && glob(rest, &text[1..]),
        Some((plain, rest)) => text.first() == Some(plain) && glob(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn every_key_parses_back_and_its_hash_tag_is_its_id(kind in kind(), keys in space()) {
        let key = keys.key(&kind);
        prop_assert!(key.len() <= MAX_KEY_LENGTH);
        prop_assert_eq!(keys.parse(&key), Some(kind.clone()), "{}", key);
        if let Kind::Value(value) = &kind {
            let tag = |key: &str| key.split_once('{').unwrap().1.split_once('}').unwrap().0.to_owned();
            prop_assert_eq!(tag(&key), tag(&keys.lease(value)));
            prop_assert_eq!(tag(&key), value.to_string());
        }
    }

    #[test]
    fn no_two_inputs_share_a_key(inputs in prop::collection::vec(kind(), 2..100)) {
        let keys = Keys::default();
        let mut seen: HashMap<String, Kind> = HashMap::new();
        for input in inputs {
            if let Some(other) = seen.insert(keys.key(&input), input.clone()) {
                prop_assert_eq!(other, input);
            }
        }
    }

    #[test]
    fn another_prefix_version_or_separator_sees_none_of_it(kind in kind(), ours in space(), theirs in space()) {
        let key = ours.key(&kind);
        let versionless = !key.starts_with(&ours.versioned);
        // What has no version is shared by all versions of one prefix and separator.
        let shared = if versionless { ours.bare == theirs.bare } else { ours == theirs };
        prop_assert_eq!(theirs.parse(&key).is_some(), shared, "{} as {:?}", key, theirs);
    }

    #[test]
    fn whatever_parses_is_the_key_of_what_it_parses_to(text in "(chat:)?(v1:)?[a-z]{0,8}[:{}a-z*]{0,12}\\PC{0,4}") {
        let keys = Keys::default();
        if let Some(kind) = keys.parse(&text) {
            prop_assert_eq!(keys.key(&kind), text);
        }
    }

    #[test]
    fn a_pattern_matches_its_family_and_nothing_else(kind in kind(), keys in space()) {
        let key = keys.key(&kind);
        for family in Family::ALL {
            let matched = glob(keys.pattern(family).as_bytes(), key.as_bytes());
            prop_assert_eq!(matched, kind.family() == Some(family), "{} for {:?}", key, family);
        }
        let versioned = glob(keys.pattern_of_version().as_bytes(), key.as_bytes());
        prop_assert_eq!(versioned, key.starts_with(&keys.versioned));
    }

    #[test]
    fn an_id_never_widens_a_pattern(text in "\\PC{0,20}|[a-z*?\\[\\]^\\\\-]{0,20}", other in "[a-z]{0,20}") {
        prop_assert!(glob(literal(&text).as_bytes(), text.as_bytes()));
        prop_assert_eq!(glob(literal(&text).as_bytes(), other.as_bytes()), text == other);
        // What ids may hold needs no escape, so that a key is its own pattern.
        for checked in [UserId::parse(&text).is_ok(), ChatId::parse(&text).is_ok(), LockName::parse(&text).is_ok()] {
            prop_assert!(!checked || literal(&text) == text);
        }
    }

    #[test]
    fn any_text_is_refused_or_parses_back(text in any::<String>()) {
        let keys = Keys::default();
        let mut kinds: Vec<Kind> = LockName::parse(&text).map(Kind::Lock).into_iter().collect();
        kinds.extend(UserId::parse(&text).map(Kind::Unread));
        kinds.extend(ChatId::parse(&text).map(Kind::Recent));
        kinds.extend(MessageId::parse(&text).map(|id| Kind::Value(Cached::Message(id))));
        for kind in kinds {
            prop_assert_eq!(keys.parse(&keys.key(&kind)), Some(kind));
        }
    }
}

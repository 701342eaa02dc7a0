use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Effective<Config>, SettingsError> {
    Config::read(Source::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()))))
}

const SECRET: (&str, &str) = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");

#[test]
fn the_defaults_need_only_a_way_to_check_tokens() {
    assert_eq!(read(&[SECRET]).unwrap().value.own.port, 3000);
    let SettingsError(errors) = read(&[]).unwrap_err();
    assert_eq!(errors, ["one of JWT_SECRET and JWT_PUBLIC_KEY_FILE must be set"]);
}

#[test]
fn networks_are_addresses_or_prefixes() {
    let Networks(networks) = Networks::parse("10.0.0.0/8, 192.0.2.1,fd00::/8").unwrap();
    assert_eq!(
        networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]
    );
    for wrong in ["10.0.0.0/33", "proxy", "10.0.0.0/8;fd00::/8"] {
        assert!(Networks::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_record_waits_for_others_as_long_as_is_set_and_never_for_most_of_its_time() {
    let linger = |pairs: &[(&str, &str)]| Some(read(pairs).ok()?.value.kafka().linger.as_millis());
    assert_eq!(linger(&[SECRET, ("KAFKA_LINGER_MS", "0")]), Some(0));
    assert_eq!(linger(&[SECRET, ("KAFKA_LINGER_MS", "40")]), Some(40));
    assert_eq!(linger(&[SECRET, ("KAFKA_LINGER_MS", "1251")]), None);
}

#[test]
fn a_broken_ladder_of_deadlines_is_refused_at_boot() {
    let SettingsError(errors) = read(&[SECRET, ("SEND_DEADLINE_MS", "3000"), ("PORT", "x")]).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let SettingsError(errors) = read(&[SECRET, ("SEND_DEADLINE_MS", "3000")]).unwrap_err();
    assert!(errors[0].starts_with("SEND_DEADLINE_MS must be at least 4000"), "{errors:?}");
}

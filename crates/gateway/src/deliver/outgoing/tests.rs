use proptest::prelude::*;

use super::*;

const EACH: usize = 1000;

fn outgoing(max: usize) -> Outgoing {
    Outgoing::new(EACH, max, IntGauge::new("bytes", "bytes").unwrap())
}

#[test]
fn a_connection_has_its_bound_and_one_response_beyond_it() {
    let outgoing = outgoing(1_000_000);
    let account = outgoing.account();
    assert!(account.charge(Packet::Event, 900));
    assert!(!account.charge(Packet::Event, 101) && account.full_for() > Duration::ZERO);
    assert!(account.charge(Packet::Response, 50_000), "one response beyond the bound");
    assert!(!account.charge(Packet::Response, 50_000), "and no second one");
    assert!(account.charge(Packet::Event, 100), "what else waits has the bound to itself");
    assert!(!account.takes_any());
    account.credit(900 + 49_999);
    assert!(!account.charge(Packet::Response, 50_000), "the last of it has not left");
    account.credit(1);
    assert!(account.charge(Packet::Response, 50_000));
    assert_eq!(account.waiting(), 50_100);
}

#[test]
fn a_refund_takes_back_the_response_beyond_the_bound() {
    let account = outgoing(1_000_000).account();
    assert!(account.charge(Packet::Response, 5000));
    account.refund(5000);
    assert!(account.takes_any() && account.waiting() == 0);
}

#[test]
fn heartbeats_and_handshakes_are_no_credit_for_later() {
    let account = outgoing(1_000_000).account();
    account.credit(500);
    assert!(account.charge(Packet::Event, 1000));
    assert!(!account.charge(Packet::Event, 1));
}

#[test]
fn the_last_quarter_is_for_those_for_whom_little_waits_and_ends_are_given_back() {
    let outgoing = outgoing(1_000_000);
    let hogs: Vec<_> = (0..3).map(|_| outgoing.account()).collect();
    assert!(hogs.iter().all(|hog| hog.charge(Packet::Response, 250_000)));
    assert!(outgoing.excess() >= 250_000);
    let quiet = outgoing.account();
    assert!(!hogs[0].charge(Packet::Event, 100), "a hog has had its share");
    assert!(quiet.charge(Packet::Event, 100));
    assert!(!outgoing.account().charge(Packet::Response, 100_000));
    drop(hogs);
    assert_eq!(outgoing.excess(), 0);
    assert!(outgoing.account().charge(Packet::Response, 100_000));
}

#[test]
fn a_frame_has_the_header_that_its_length_needs() {
    assert_eq!([125, 126, 65_535, 65_536].map(framed), [127, 130, 65_539, 65_546]);
}

proptest! {
    #[test]
    fn the_total_is_what_the_accounts_hold_and_neither_exceeds_its_bound(
        steps in prop::collection::vec((0_usize..4, 0_u8..5, 1_usize..3000), 1..300),
    ) {
        let outgoing = outgoing(20_000);
        let mut accounts: Vec<_> = (0..4).map(|_| outgoing.account()).collect();
        let mut largest = 0;
        for (index, step, bytes) in steps {
            match step {
                0 => drop(accounts[index].charge(Packet::Event, bytes)),
                1 if accounts[index].charge(Packet::Response, bytes) => largest = largest.max(bytes),
                2 if accounts[index].charge(Packet::Event, bytes) => accounts[index].refund(bytes),
                3 => accounts[index].credit(bytes),
                4 => accounts[index] = outgoing.account(),
                _ => {}
            }
            let held: usize = accounts.iter().map(|account| account.waiting()).sum();
            prop_assert_eq!(held, outgoing.0.bytes.load(Ordering::Relaxed));
            prop_assert_eq!(held as i64, outgoing.0.gauge.get());
            prop_assert!(held <= 20_000);
            prop_assert!(accounts.iter().all(|account| account.waiting() <= EACH + largest.max(EACH)));
        }
    }
}

use proptest::prelude::*;

use super::*;

const RECOVERY: Duration = Duration::from_secs(60);

fn breaker() -> Breaker {
    Breaker::new("test", BreakerSettings::default(), None)
}

fn fail(breaker: &Breaker, now: Instant, times: usize) {
    for _ in 0..times {
        breaker.acquire(now).unwrap().failure(now);
    }
}

#[test]
fn the_fifth_failure_opens_it_and_it_says_when_to_come_back() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, now, 4);
    assert_eq!(breaker.state(), BreakerState::Closed);
    fail(&breaker, now, 1);
    assert_eq!(breaker.state(), BreakerState::Open);
    let rejected = breaker.acquire(now + Duration::from_secs(20)).err().unwrap();
    assert_eq!(rejected.retry_after, Duration::from_secs(40));
}

#[test]
fn a_success_makes_a_failure_good_and_old_failures_are_forgotten() {
    let (breaker, now) = (breaker(), Instant::now());
    for _ in 0..100 {
        fail(&breaker, now, 1);
        breaker.acquire(now).unwrap().success();
    }
    fail(&breaker, now, 4);
    fail(&breaker, now + Duration::from_secs(301), 4);
    assert_eq!(breaker.state(), BreakerState::Closed);
    fail(&breaker, now + Duration::from_secs(302), 1);
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn three_probes_are_let_through_and_close_it_together() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, now, 5);
    let later = now + RECOVERY;
    let probes: Vec<_> = (0..3).map(|_| breaker.acquire(later).unwrap()).collect();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(breaker.acquire(later).is_err());
    let mut probes = probes.into_iter();
    probes.next().unwrap().success();
    probes.next().unwrap().success();
    assert!(breaker.acquire(later).is_err(), "no fourth probe takes a place");
    drop(probes.next());
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "an unmade call proves nothing");
    breaker.acquire(later).unwrap().success();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_failed_probe_opens_it_again_and_the_others_no_longer_count() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, now, 5);
    let later = now + RECOVERY;
    let (first, second) = (breaker.acquire(later).unwrap(), breaker.acquire(later).unwrap());
    first.failure(later);
    assert_eq!(breaker.state(), BreakerState::Open);
    second.success();
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.acquire(later + RECOVERY).is_ok());
}

#[test]
fn the_metric_follows_the_state() {
    let metrics = BreakerMetrics::register(&prometheus::Registry::new()).unwrap();
    let breaker = Breaker::new("redis", BreakerSettings::default(), Some(&metrics));
    let gauge = metrics.state.with_label_values(&["redis"]);
    let now = Instant::now();
    fail(&breaker, now, 5);
    assert_eq!(gauge.get(), 1);
    let permit = breaker.acquire(now + RECOVERY).unwrap();
    assert_eq!(gauge.get(), 2);
    permit.failure(now + RECOVERY);
    let count = |to: &str| metrics.transitions.with_label_values(&["redis", to]).get();
    assert_eq!((count("open"), count("half_open"), count("closed")), (2, 1, 0));
}

#[test]
fn an_operator_holds_it_open_or_closed_until_it_is_left_to_itself() {
    let metrics = BreakerMetrics::register(&prometheus::Registry::new()).unwrap();
    let breaker = Breaker::new("redis", BreakerSettings::default(), Some(&metrics));
    let now = Instant::now();
    breaker.hold(Some(Hold::Open));
    breaker.answered();
    assert_eq!(breaker.acquire(now + RECOVERY * 100).err().unwrap().retry_after, RECOVERY);
    breaker.hold(Some(Hold::Closed));
    fail(&breaker, now, 100);
    assert_eq!(breaker.state(), BreakerState::Closed);
    breaker.hold(None);
    fail(&breaker, now, 4);
    assert_eq!(breaker.state(), BreakerState::Closed, "what failed while it was held is forgotten");
    fail(&breaker, now, 1);
    assert_eq!(breaker.state(), BreakerState::Open);
    let count = |to: &str| metrics.transitions.with_label_values(&["redis", to]).get();
    assert_eq!((count("open"), count("closed")), (2, 1), "held closed to left alone is no change");
}

#[test]
fn a_call_from_before_an_operator_held_it_changes_nothing() {
    let (breaker, now) = (breaker(), Instant::now());
    fail(&breaker, now, 4);
    let under_way = breaker.acquire(now).unwrap();
    breaker.hold(Some(Hold::Closed));
    breaker.hold(None);
    fail(&breaker, now, 4);
    under_way.failure(now);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Acquire,
    /// A verdict on the n-th open permit: success, failure or none.
    Judge(usize, Option<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..40).prop_map(Step::Wait),
        Just(Step::Acquire),
        Just(Step::Acquire),
        (0_usize..6, prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)])
            .prop_map(|(index, verdict)| Step::Judge(index, verdict)),
    ]
}

/// The rules again, in whole seconds and without cleverness.
#[derive(Default)]
struct Model {
    failures: Vec<u64>,
    open_until: Option<u64>,
    /// Verdicts of the probes: none yet, or success.
    probes: Option<Vec<Option<()>>>,
    era: u64,
}

impl Model {
    fn acquire(&mut self, now: u64) -> Option<(u64, usize)> {
        if let Some(until) = self.open_until {
            if now < until {
                return None;
            }
            (self.open_until, self.probes) = (None, Some(Vec::new()));
            self.era += 1;
        }
        match &mut self.probes {
            Some(probes) if probes.len() == 3 => None,
            Some(probes) => {
                probes.push(None);
                Some((self.era, 0))
            }
            None => Some((self.era, 0)),
        }
    }

    fn judge(&mut self, era: u64, verdict: Option<bool>, now: u64) {
        if era != self.era {
            return;
        }
        if let Some(probes) = &mut self.probes {
            let open = probes.iter().position(Option::is_none).unwrap();
            match verdict {
                None => drop(probes.remove(open)),
                Some(true) => {
                    probes[open] = Some(());
                    if probes.len() == 3 && probes.iter().all(Option::is_some) {
                        self.probes = None;
                        self.era += 1;
                    }
                }
                Some(false) => {
                    (self.probes, self.open_until) = (None, Some(now + 60));
                    self.era += 1;
                }
            }
        } else if verdict == Some(true) {
            if !self.failures.is_empty() {
                self.failures.remove(0);
            }
        } else if verdict == Some(false) {
            self.failures.push(now);
            self.failures.retain(|at| now - at <= 300);
            if self.failures.len() == 5 {
                self.failures.clear();
                self.open_until = Some(now + 60);
                self.era += 1;
            }
        }
    }

    fn state(&self) -> BreakerState {
        match (&self.open_until, &self.probes) {
            (Some(_), _) => BreakerState::Open,
            (None, Some(_)) => BreakerState::HalfOpen,
            (None, None) => BreakerState::Closed,
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_rules_say(steps in prop::collection::vec(step(), 1..200)) {
        let (breaker, start) = (breaker(), Instant::now());
        let (mut model, mut now) = (Model::default(), 0_u64);
        let mut permits: Vec<(Permit, u64)> = Vec::new();
        for step in steps {
            let at = start + Duration::from_secs(now);
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Acquire => {
                    let (permit, expected) = (breaker.acquire(at).ok(), model.acquire(now));
                    prop_assert_eq!(permit.is_some(), expected.is_some());
                    permits.extend(permit.zip(expected.map(|(era, _)| era)));
                }
                Step::Judge(index, verdict) if index < permits.len() => {
                    let (permit, era) = permits.remove(index);
                    match verdict {
                        None => drop(permit),
                        Some(true) => permit.success(),
                        Some(false) => permit.failure(at),
                    }
                    model.judge(era, verdict, now);
                }
                Step::Judge(..) => {}
            }
            prop_assert_eq!(breaker.state(), model.state());
        }
    }
}

#[test]
fn an_answer_from_elsewhere_lets_the_probes_through_early() {
    let (breaker, now) = (breaker(), Instant::now());
    breaker.answered();
    assert_eq!(breaker.state(), BreakerState::Closed);
    fail(&breaker, now, 5);
    breaker.answered();
    for _ in 0..3 {
        breaker.acquire(now).unwrap().success();
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

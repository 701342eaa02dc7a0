use std::time::{Duration, Instant};

use holdfast_cache::rate_limit::{Decision, Kind, Limit, LocalLimiter, RateLimiter};
use holdfast_keys::Keys;

use crate::support::{BUDGET, cache_url, connect, raw, user};

#[tokio::test]
async fn a_limit_holds_over_all_gateways_and_each_user_alone() {
    let url = cache_url().await;
    let limit = Limit { events: 10, window: Duration::from_secs(60) };
    let limiters: Vec<_> = (0..4).map(|_| RateLimiter::new(connect(&url), Keys::default(), limit)).collect();
    let (alice, bob) = (user(), user());
    let tries = (0..40).map(|number| limiters[number % 4].check(Kind::Message, &alice, BUDGET));
    let decisions = futures_util::future::join_all(tries).await;
    let allowed = decisions.iter().filter(|decision| **decision == Ok(Decision::Allowed)).count();
    assert_eq!(allowed, 10);
    let Ok(Decision::Limited { retry_after }) = limiters[0].check(Kind::Message, &alice, BUDGET).await else {
        panic!()
    };
    assert!((50_000..=66_000).contains(&retry_after.as_millis()), "{retry_after:?}");
    let both = limiters[0].check_batch(Kind::Message, &[&alice, &bob], BUDGET).await;
    assert!(matches!(both[0], Ok(Decision::Limited { .. })));
    assert_eq!(both[1], Ok(Decision::Allowed));
    // What else they do is counted by itself, by its name.
    for event in ["history", "typing"] {
        let answers = limiters[0].check_batch(Kind::Event(event), &[&alice; 11], BUDGET).await;
        assert!(answers[..10].iter().all(|answer| *answer == Ok(Decision::Allowed)), "{event}: {answers:?}");
        assert!(matches!(answers[10], Ok(Decision::Limited { .. })), "{event}: {answers:?}");
    }
}

#[tokio::test]
async fn many_at_once_pass_together_or_not_at_all() {
    let limit = Limit { events: 10, window: Duration::from_secs(60) };
    let shared = RateLimiter::new(connect(&cache_url().await), Keys::default(), limit);
    let local = LocalLimiter::new(limit, 10, Instant::now());
    let (alice, bob) = (user(), user());
    let limited = |decision: &Decision| matches!(decision, Decision::Limited { .. });
    for (who, counts) in [
        (&alice, [(4, false), (7, true), (6, false), (1, true)]),
        (&bob, [(99, false), (1, true), (99, true), (1, true)]),
    ] {
        for (count, refused) in counts {
            let decision = shared.check_many(Kind::Message, count, &[who], BUDGET).await.pop().unwrap().unwrap();
            assert_eq!(limited(&decision), refused, "{count}");
            assert_eq!(limited(&local.check_many(who, count, Instant::now())), refused, "{count}");
        }
    }
}

#[tokio::test]
async fn waiting_as_told_helps_and_the_count_expires() {
    let url = cache_url().await;
    let limit = Limit { events: 3, window: Duration::from_millis(400) };
    let limiter = RateLimiter::new(connect(&url), Keys::default(), limit);
    let alice = user();
    let batch = limiter.check_batch(Kind::Message, &[&alice, &alice, &alice, &alice], BUDGET).await;
    let Ok(Decision::Limited { retry_after }) = batch[3] else { panic!("{batch:?}") };
    assert!(retry_after <= Duration::from_millis(440), "{retry_after:?}");
    tokio::time::sleep(retry_after).await;
    assert_eq!(limiter.check(Kind::Message, &alice, BUDGET).await, Ok(Decision::Allowed));
    let key = Keys::default().rate_limit(&alice);
    let ttl: i64 = redis::cmd("PTTL").arg(key).query_async(&mut raw(&url).await).await.unwrap();
    // -2: it has expired by now. -1 would mean that it never does.
    assert!(ttl == -2 || (1..=420).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn no_window_sees_more_than_the_limit() {
    let limit = Limit { events: 5, window: Duration::from_millis(100) };
    let limiter = RateLimiter::new(connect(&cache_url().await), Keys::default(), limit);
    let alice = user();
    let mut passed = Vec::new();
    let started = Instant::now();
    while passed.len() < 30 {
        assert!(started.elapsed() < Duration::from_secs(120), "{} passed", passed.len());
        let asked = Instant::now();
        if limiter.check(Kind::Message, &alice, BUDGET).await == Ok(Decision::Allowed) {
            passed.push((asked, Instant::now()));
        }
    }
    // The server decided somewhere between asking and answering.
    for six in passed.windows(6) {
        assert!(six[5].1 - six[0].0 >= Duration::from_millis(99));
    }
}

#[tokio::test]
async fn a_garbled_count_starts_anew() {
    let url = cache_url().await;
    let limit = Limit { events: 1, window: Duration::from_secs(60) };
    let limiter = RateLimiter::new(connect(&url), Keys::default(), limit);
    let alice = user();
    let key = Keys::default().rate_limit(&alice);
    let _: () = redis::cmd("SET").arg(key).arg("gar:bage 1:2:3").query_async(&mut raw(&url).await).await.unwrap();
    assert_eq!(limiter.check(Kind::Message, &alice, BUDGET).await, Ok(Decision::Allowed));
    assert!(matches!(limiter.check(Kind::Message, &alice, BUDGET).await, Ok(Decision::Limited { .. })));
}

#[tokio::test]
async fn a_clock_that_went_back_keeps_nobody_waiting_for_longer_than_two_windows() {
    let url = cache_url().await;
    let limit = Limit { events: 1, window: Duration::from_secs(60) };
    let limiter = RateLimiter::new(connect(&url), Keys::default(), limit);
    let mut raw = raw(&url).await;
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut raw).await.unwrap();
    let (alice, bob) = (user(), user());
    // Cells of three seconds; counted an hour and half a minute ahead of the clock.
    for (user, ahead) in [(&alice, 3600), (&bob, 30)] {
        let count = format!("3000 {}:1", (now + ahead) / 3);
        let _: () =
            redis::cmd("SET").arg(Keys::default().rate_limit(user)).arg(count).query_async(&mut raw).await.unwrap();
    }
    assert_eq!(limiter.check(Kind::Message, &alice, BUDGET).await, Ok(Decision::Allowed));
    assert!(matches!(limiter.check(Kind::Message, &alice, BUDGET).await, Ok(Decision::Limited { .. })));
    let Ok(Decision::Limited { retry_after }) = limiter.check(Kind::Message, &bob, BUDGET).await else { panic!() };
    assert!(retry_after <= Duration::from_secs(120), "{retry_after:?}");
}

#[test]
fn the_stand_in_counts_the_same_way() {
    let now = Instant::now();
    let limiter = LocalLimiter::new(Limit { events: 2, window: Duration::from_secs(1) }, 10, now);
    let alice = user();
    let tries: Vec<_> = (0..3).map(|_| limiter.check(&alice, now)).collect();
    assert_eq!(tries[..2], [Decision::Allowed, Decision::Allowed]);
    assert_eq!(tries[2], Decision::Limited { retry_after: Duration::from_millis(1050) });
}

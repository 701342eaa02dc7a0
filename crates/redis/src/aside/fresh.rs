//! Fresh answers, for callers that would rather wait a little than get a stale value.
//!
//! A flight answers with a stale value as soon as it finds one, and then refreshes it if it has the lease: the second outcome is the one
//! that is waited for here. If another process has the lease, Redis is read again until that process has filled the value. The stale value
//! is the answer if no newer one arrives in time.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::{sleep, timeout_at};

use super::single_flight::{FIRST_PAUSE, LONGEST_PAUSE, SingleFlight, Waiter};
use super::source::{Answer, AsideError, Found, Freshness, Patience, Source};
use crate::metrics::AnsweredBy;

/// One key that waits for a fresh answer.
struct Wait<S: Source> {
    key: S::Key,
    name: Arc<str>,
    /// The key's generation in memory before anything was read.
    generation: u64,
    /// The best answer so far, which is not fresh.
    held: Option<Found<S::Value>>,
    /// When the wait ends, with `held` or with nothing.
    until: Instant,
    /// The index of its answer.
    index: usize,
}

/// How the wait for a flight ended.
enum End<S: Source> {
    /// There is nothing better to wait for.
    Answer(AnsweredBy, Answer<S>),
    /// Another process may be loading: read Redis again.
    Again,
}

impl<S: Source> SingleFlight<S> {
    /// The answers to these keys, in their order.
    pub(super) async fn fresh(self: Arc<Self>, keys: &[S::Key], patience: Patience) -> Vec<Answer<S>> {
        let started = Instant::now();
        let mut answers: Vec<Option<Answer<S>>> = keys.iter().map(|_| None).collect();
        let wait = |(index, key): (usize, &S::Key)| self.wait(index, key, started, patience);
        let mut waiting: Vec<_> = keys.iter().enumerate().map(wait).collect();
        let mut pause = FIRST_PAUSE;
        loop {
            waiting.retain_mut(|wait| {
                let found = self.fresh_in_memory(wait);
                if let Some(found) = found {
                    self.count(AnsweredBy::Memory);
                    answers[wait.index] = Some(Ok(found));
                }
                answers[wait.index].is_none()
            });
            let waiters = self.begin(waiting.iter().map(|wait| (wait.key.clone(), wait.name.clone())));
            let mut again = Vec::new();
            for (mut wait, waiter) in waiting.into_iter().zip(waiters) {
                let end = wait.follow(waiter, patience).await;
                let known = self.memory().generation(&wait.name);
                match end {
                    _ if known != wait.generation && Instant::now() < started + patience.nothing => {
                        // The key was invalidated meanwhile: the value may be from before.
                        (wait.generation, wait.held, wait.until) = (known, None, started + patience.nothing);
                        again.push(wait);
                    }
                    End::Answer(by, answer) => {
                        let outdated = known != wait.generation;
                        self.count(if outdated { AnsweredBy::Nothing } else { by });
                        answers[wait.index] = Some(if outdated { Err(AsideError::Unanswered) } else { answer });
                    }
                    End::Again if self.failed(&wait.name) || Instant::now() + pause >= wait.until => {
                        let (by, answer) = wait.given_up(AsideError::Unanswered);
                        self.count(by);
                        answers[wait.index] = Some(answer);
                    }
                    End::Again => again.push(wait),
                }
            }
            if again.is_empty() {
                return answers.into_iter().map(|answer| answer.unwrap_or(Err(AsideError::Unanswered))).collect();
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            waiting = again;
        }
    }

    fn wait(&self, index: usize, key: &S::Key, started: Instant, patience: Patience) -> Wait<S> {
        let name = self.name(key);
        let generation = self.memory().generation(&name);
        // Better than nothing, even if an invalidation may have been missed.
        let held = self.memory().get(&name, started);
        let held = held.map(|hit| Found { freshness: Freshness::Stale { age: hit.age }, ..hit.found });
        let until = started + if held.is_some() { patience.stale } else { patience.nothing };
        Wait { key: key.clone(), name, generation, held, until, index }
    }

    fn fresh_in_memory(&self, wait: &Wait<S>) -> Option<Found<S::Value>> {
        let now = Instant::now();
        let hit = self.memory().get(&wait.name, now).filter(|hit| self.may_use(hit, now))?;
        (hit.found.freshness == Freshness::Fresh).then_some(hit.found)
    }
}

impl<S: Source> Wait<S> {
    /// Waits for a fresh outcome of a flight.
    async fn follow(&mut self, mut waiter: Waiter<S>, patience: Patience) -> End<S> {
        loop {
            let outcome = waiter.borrow_and_update().as_ref().map(|outcome| (outcome.by, outcome.answer.clone()));
            match outcome {
                Some((by, Ok(found))) if found.freshness == Freshness::Fresh => return End::Answer(by, Ok(found)),
                Some((_, Ok(found))) => {
                    self.until = self.until.min(Instant::now() + patience.stale);
                    self.held = Some(found);
                }
                Some((_, Err(error))) => {
                    let (by, answer) = self.given_up(error);
                    return End::Answer(by, answer);
                }
                None => {}
            }
            match timeout_at(self.until.into(), waiter.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Again,
                Err(_) => {
                    let (by, answer) = self.given_up(AsideError::Unanswered);
                    return End::Answer(by, answer);
                }
            }
        }
    }

    /// The best answer so far, or else this error.
    fn given_up(&self, error: AsideError<S::Error>) -> (AnsweredBy, Answer<S>) {
        self.held.clone().map_or((AnsweredBy::Nothing, Err(error)), |found| (AnsweredBy::Stale, Ok(found)))
    }
}

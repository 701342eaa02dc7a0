use std::time::{Duration, Instant};

use holdfast_kafka::{
    Commit, Committed, ConsumerSettings, Event, GroupConsumer, KafkaSettings, Loss, Polled, Publisher, RecordView,
    Trouble,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::cluster;

fn group() -> ConsumerSettings {
    ConsumerSettings { session_timeout: Duration::from_secs(6), ..ConsumerSettings::default() }
}

fn join(settings: &KafkaSettings) -> GroupConsumer {
    GroupConsumer::subscribe(settings, &group(), || {}).unwrap()
}

/// Polls until `wanted` says so.
fn until<T>(consumer: &GroupConsumer, mut wanted: impl FnMut(Polled<'_>) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "not seen within 30 s");
        match consumer.poll() {
            Polled::Idle => std::thread::sleep(Duration::from_millis(5)),
            polled => {
                if let Some(found) = wanted(polled) {
                    return found;
                }
            }
        }
    }
}

fn assigned(consumer: &mut GroupConsumer) -> Vec<i32> {
    let partitions = until(consumer, |polled| match polled {
        Polled::Event(Event::Assigned(partitions)) => Some(partitions),
        _ => None,
    });
    let committed = consumer.committed(&partitions, Duration::from_secs(10)).unwrap();
    consumer.assign(&committed.iter().map(|commit| (commit.partition, commit.offset)).collect::<Vec<_>>()).unwrap();
    partitions
}

async fn publish(settings: &KafkaSettings, partitions: i32, count: u8) {
    let publisher = Publisher::new(settings).unwrap();
    for value in 0..count {
        for partition in 0..partitions {
            publisher.publish_raw("messages", Some(partition), None, Some(&[value]), &[]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_is_committed_unless_asked_for_and_a_commit_is_what_its_report_says() {
    let (cluster, settings) = cluster(1);
    publish(&settings, 1, 3).await;
    let mut first = join(&settings);
    assert_eq!(assigned(&mut first), [0]);
    for _ in 0..3 {
        until(&first, |polled| matches!(polled, Polled::Record(_)).then_some(()));
    }
    drop(first);

    let mut second = join(&settings);
    assigned(&mut second);
    let offset = until(&second, |polled| match polled {
        Polled::Record(record) => Some(record.offset()),
        _ => None,
    });
    assert_eq!(offset, 0, "from the beginning, as nothing was committed");
    let report = |event: Polled<'_>| match event {
        Polled::Event(Event::Committed { offsets, result }) => Some((offsets, result)),
        _ => None,
    };
    cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let loss = Loss { records: 7, since: 1_700_000_000_000 };
    second.commit(vec![Commit { loss, ..Commit::at(0, 2) }]);
    let refused = until(&second, report);
    assert!(refused.1.is_err(), "{refused:?}");
    let committed = |offset, loss| [Committed { partition: 0, offset, loss }];
    assert_eq!(second.committed(&[0], Duration::from_secs(5)).unwrap(), committed(None, Loss::default()));
    second.commit(vec![Commit { loss, ..Commit::at(0, 2) }]);
    assert_eq!(until(&second, report), (vec![(0, 2)], Ok(())));
    assert_eq!(second.committed(&[0], Duration::from_secs(5)).unwrap(), committed(Some(2), loss));
    second.commit(vec![Commit::at(0, 2)]);
    assert_eq!(until(&second, report).1, Ok(()));
    assert_eq!(second.committed(&[0], Duration::from_secs(5)).unwrap(), committed(Some(2), Loss::default()));
}

#[tokio::test]
async fn a_rebalance_waits_for_a_late_answer_while_polls_and_commits_go_on() {
    let (_cluster, settings) = cluster(2);
    publish(&settings, 2, 5).await;
    let mut first = join(&settings);
    // A late assign.
    let partitions = until(&first, |polled| match polled {
        Polled::Event(Event::Assigned(partitions)) => Some(partitions),
        _ => None,
    });
    let late = Instant::now() + Duration::from_secs(1);
    while Instant::now() < late {
        assert!(!matches!(first.poll(), Polled::Record(_)), "a record before the assignment was answered");
        std::thread::sleep(Duration::from_millis(5));
    }
    first.assign(&partitions.iter().map(|partition| (*partition, None)).collect::<Vec<_>>()).unwrap();
    let mut records = 0;
    until(&first, |polled| {
        records += usize::from(matches!(polled, Polled::Record(_)));
        (records == 10).then_some(())
    });

    // A late unassign, with a commit in between.
    let (other, joined) = {
        let settings = settings.clone();
        let (tell, joined) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let mut second = join(&settings);
            let partitions = loop {
                let partitions = assigned(&mut second);
                if !partitions.is_empty() {
                    break partitions;
                }
            };
            tell.send(Instant::now()).unwrap();
            let offset = until(&second, |polled| match polled {
                Polled::Record(record) => Some((record.partition(), record.offset())),
                _ => None,
            });
            drop(second);
            (partitions, offset)
        });
        (other, joined)
    };
    let (revoked, lost) = until(&first, |polled| match polled {
        Polled::Event(Event::Revoked { partitions, lost }) => Some((partitions, lost)),
        _ => None,
    });
    assert!(!lost && revoked.len() == 1, "{revoked:?}");
    let late = Instant::now() + Duration::from_secs(2);
    while Instant::now() < late {
        let _ = first.poll();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(joined.try_recv().is_err(), "the other member has the partition before it was given up");
    first.commit(vec![Commit::at(revoked[0], 3)]);
    let answer = until(&first, |polled| match polled {
        Polled::Event(Event::Committed { result, .. }) => Some(result),
        _ => None,
    });
    // Taken, or refused because the group has taken a step meanwhile; what was not committed is read again.
    let next = match answer {
        Ok(()) => 3,
        Err(reason) if ["RebalanceInProgress", "IllegalGeneration"].iter().any(|code| reason.contains(code)) => 0,
        Err(reason) => panic!("{reason}"),
    };
    first.unassign(&revoked).unwrap();
    while !other.is_finished() {
        let polled = match first.poll() {
            Polled::Event(Event::Assigned(partitions)) => Some(partitions),
            _ => None,
        };
        if let Some(partitions) = polled {
            first.assign(&partitions.iter().map(|partition| (*partition, None)).collect::<Vec<_>>()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(other.join().unwrap(), (revoked.clone(), (revoked[0], next)));
}

#[tokio::test]
async fn closing_with_an_unanswered_rebalance_does_not_hang() {
    let (_cluster, settings) = cluster(2);
    let first = join(&settings);
    until(&first, |polled| matches!(polled, Polled::Event(Event::Assigned(_))).then_some(()));
    let (done, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(first);
        done.send(()).unwrap();
    });
    closed.recv_timeout(Duration::from_secs(10)).expect("closed within 10 s");
}

#[tokio::test]
async fn a_paused_partition_gives_nothing_while_others_do_and_goes_on_where_it_stopped() {
    let (cluster, settings) = cluster(2);
    publish(&settings, 2, 100).await;
    let mut consumer = join(&settings);
    assigned(&mut consumer);
    let take = |consumer: &GroupConsumer, count: usize| {
        let mut taken = Vec::new();
        until(consumer, |polled| {
            if let Polled::Record(record) = polled {
                taken.push((record.partition(), record.offset()));
            }
            (taken.len() == count).then_some(())
        });
        taken
    };
    let first = take(&consumer, 10);
    let paused = first[0].0;
    let seen = first.iter().filter(|(partition, _)| *partition == paused).count() as i64;
    consumer.pause(&[paused]);
    let others = first.len() as i64 - seen;
    let other = take(&consumer, 100 - others as usize);
    assert!(other.iter().all(|(partition, _)| *partition == 1 - paused), "{other:?}");
    // What was fetched ahead is still there, and comes although nothing can be fetched.
    cluster.broker_down(1).unwrap();
    consumer.resume(&[paused]);
    assert_eq!(take(&consumer, 1), [(paused, seen)]);
    cluster.broker_up(1).unwrap();
    let rest = take(&consumer, 99 - seen as usize);
    assert_eq!(rest, (seen + 1..100).map(|offset| (paused, offset)).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_refused_is_told_with_the_partition_that_it_concerns() {
    let (cluster, settings) = cluster(1);
    let told = |polled: Polled<'_>| match polled {
        Polled::Event(Event::Trouble { kind, partition }) => Some((kind, partition)),
        _ => None,
    };
    cluster.request_errors(RDKafkaApiKey::JoinGroup, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
    let mut consumer = join(&settings);
    assert_eq!(until(&consumer, told), (Trouble::GroupAuthorization, None));
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2]);
    assert_eq!(assigned(&mut consumer), [0], "it is tried again");
    assert_eq!(until(&consumer, told), (Trouble::TopicAuthorization, Some(0)));
    publish(&settings, 1, 1).await;
    until(&consumer, |polled| matches!(polled, Polled::Record(_)).then_some(()));
}

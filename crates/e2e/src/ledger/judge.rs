//! Compares the answers and events that clients received with what is stored and shown, after every fault has ended.

mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub use verdict::{Circumstances, Fault, Finding, Kill, Span, Verdict};

use super::{Attempt, Document, Held, History, Moment, Outcome, Reading, Seen, Sent};

/// When an answer is late: the services' deadline (`SEND_DEADLINE_MS`) and a second on its way.
const LATE_MS: i64 = 5000;
/// How far a stored time may lie outside an ambiguous send's attempts, in milliseconds: stamps run ahead of the clock in a burst.
const STAMP_SLACK_MS: i64 = 1000;

/// Judges a run. `shown` is what clients read of each chat's history at the end: all of it at least once, and any number of newest pages.
pub fn judge(history: &History, held: &Held, shown: &[Reading], circumstances: &Circumstances) -> Verdict {
    let mut verdict = Verdict::default();
    let sends: Vec<_> = history.sent.iter().filter_map(|sent| Some((sent.message()?.id.to_string(), sent))).collect();
    let mut documents = HashMap::<&str, Vec<&Document>>::new();
    for document in &held.0 {
        documents.entry(&document.id).or_default().push(document);
    }
    count(&mut verdict, history);
    stored(&mut verdict, &sends, &documents);
    strangers(&mut verdict, &sends, held);
    order(&mut verdict, &sends, &documents, circumstances);
    answers(&mut verdict, history, &documents, circumstances);
    histories(&mut verdict, &sends, held, shown, circumstances);
    for seen in &history.seen {
        device(&mut verdict, &sends, &documents, seen, circumstances);
    }
    twice(&mut verdict, &history.seen);
    verdict.findings.sort_by(|one, other| (one.fault, &one.message_id).cmp(&(other.fault, &other.message_id)));
    // A message counts once for each fault, however many devices and pages show it.
    verdict.findings.dedup_by(|one, other| (one.fault, &one.message_id) == (other.fault, &other.message_id));
    verdict
}

impl Verdict {
    fn found(&mut self, fault: Fault, message_id: &str, detail: impl Into<String>) {
        self.findings.push(Finding { fault, message_id: message_id.to_owned(), detail: detail.into() });
    }
}

fn count(verdict: &mut Verdict, history: &History) {
    verdict.sent = history.sent.len();
    verdict.refetched = history.seen.iter().map(|seen| seen.refetched.len()).sum();
    for sent in &history.sent {
        let first = sent.attempts.iter().find_map(|attempt| match &attempt.outcome {
            Outcome::Accepted { durability, .. } => Some(durability),
            _ => None,
        });
        if let Some(durability) = first {
            *verdict.accepted.entry(durability.clone()).or_default() += 1;
        }
        for attempt in &sent.attempts {
            match attempt.outcome {
                Outcome::Accepted { .. } => {}
                Outcome::Refused { .. } => verdict.refused += 1,
                Outcome::TimedOut | Outcome::Disconnected => verdict.unknown += 1,
            }
        }
    }
}

/// Lost, duplicated, mutated: each send against its documents.
fn stored(verdict: &mut Verdict, sends: &[(String, &Sent)], documents: &HashMap<&str, Vec<&Document>>) {
    for (id, sent) in sends {
        for attempt in &sent.attempts {
            if let Outcome::Accepted { message_id, .. } = &attempt.outcome
                && message_id != id
            {
                verdict.found(Fault::Mutated, id, format!("answered as {message_id}"));
            }
        }
        match documents.get(id.as_str()).map_or(&[][..], Vec::as_slice) {
            [] if sent.accepted().is_some() => {
                let accepted = sent.attempts.iter().find(|attempt| attempt.is_accepted());
                verdict.found(Fault::Lost, id, format!("not stored, though {accepted:?}"));
            }
            [] => {}
            [document] => {
                if let Some(difference) = difference(sent, document) {
                    verdict.found(Fault::Mutated, id, difference);
                }
            }
            more => verdict.found(Fault::Duplicated, id, format!("{} documents have this id", more.len())),
        }
    }
}

/// What a stored message has that was not sent so.
fn difference(sent: &Sent, document: &Document) -> Option<String> {
    let chat = sent.message()?.chat.to_string();
    let fields = [
        ("tempId", Some(&*sent.temp_id), document.temp_id.as_deref()),
        ("chatId", Some(&*chat), Some(&*document.chat)),
        ("senderId", Some(&*sent.sender), Some(&*document.sender)),
        ("receiverId", Some(&*sent.receiver).filter(|_| sent.group.is_none()), document.receiver.as_deref()),
        ("content", Some(&*sent.content), Some(&*document.content)),
    ];
    if let Some((name, wanted, found)) = fields.into_iter().find(|(_, wanted, found)| wanted != found) {
        return Some(format!("{name} is {found:?}, sent as {wanted:?}"));
    }
    let stored = document.timestamp;
    match &sent.attempts[..] {
        [] => None,
        // One attempt: the answer contains the only timestamp that this message can have.
        [Attempt { outcome: Outcome::Accepted { timestamp, .. }, .. }] => {
            (*timestamp != stored).then(|| format!("stored as of {stored}, answered as of {timestamp}"))
        }
        // Each attempt may have been stamped anew (beyond the resend window, or with the cache away): the first stored copy wins.
        attempts => outside(stored, attempts),
    }
}

/// An attempt without an answer has no end: a gateway that was frozen reads and stamps it when it is thawed.
fn outside(stored: i64, attempts: &[Attempt]) -> Option<String> {
    let answered = |attempt: &Attempt| !matches!(attempt.outcome, Outcome::TimedOut | Outcome::Disconnected);
    let from = attempts.iter().map(|attempt| attempt.began_ms).min()? - STAMP_SLACK_MS;
    let to = attempts.iter().map(|attempt| attempt.ended_ms).max()? + STAMP_SLACK_MS;
    let late = stored > to && attempts.iter().all(answered);
    (stored < from || late).then(|| format!("stored as of {stored}, sent between {from} and {to}"))
}

/// Documents that no send explains.
fn strangers(verdict: &mut Verdict, sends: &[(String, &Sent)], held: &Held) {
    let ids: HashSet<_> = sends.iter().map(|(id, _)| id.as_str()).collect();
    let by_temp_id: HashMap<_, _> =
        sends.iter().map(|(id, sent)| ((&*sent.sender, &*sent.temp_id), id.as_str())).collect();
    for document in held.0.iter().filter(|document| !ids.contains(document.id.as_str())) {
        let known = document.temp_id.as_deref().and_then(|temp_id| by_temp_id.get(&(&*document.sender, temp_id)));
        match known {
            Some(id) => verdict.found(Fault::Duplicated, id, format!("stored as {} too", document.id)),
            None => verdict.found(Fault::Unexpected, &document.id, "stored, and nobody sent it"),
        }
    }
}

/// Swapped: one sender's messages to one chat against the order they are stored in.
fn order(
    verdict: &mut Verdict,
    sends: &[(String, &Sent)],
    documents: &HashMap<&str, Vec<&Document>>,
    circumstances: &Circumstances,
) {
    type Stored<'a> = (&'a Sent, (i64, &'a str));
    let mut streams = HashMap::<(&str, &str, Option<&String>), Vec<Stored<'_>>>::new();
    for (id, sent) in sends {
        if let Some(document) = documents.get(id.as_str()).and_then(|documents| documents.first()) {
            streams
                .entry((&sent.sender, &sent.receiver, sent.group.as_ref()))
                .or_default()
                .push((sent, document.key()));
        }
    }
    for stream in streams.values() {
        // What was answered before a send began must be stored before it.
        // A repeat after the answer may have been stamped anew and stored first: with the cache away, or on another gateway after
        // the resend window.
        let ambiguous = |sent: &Sent, accepted: Moment| {
            let by = sent.attempts.iter().find(|attempt| attempt.ended == accepted).map(|attempt| &attempt.gateway);
            let elsewhere = |attempt: &Attempt| circumstances.cache_was_away || Some(&attempt.gateway) != by;
            // Whoever answers that it is a repeat knows the first copy, and has its time.
            let knew = |attempt: &Attempt| matches!(attempt.outcome, Outcome::Accepted { duplicate: true, .. });
            sent.attempts.iter().any(|attempt| attempt.began > accepted && elsewhere(attempt) && !knew(attempt))
        };
        let answered = stream.iter().filter_map(|(sent, key)| Some((sent, sent.accepted()?, *key)));
        let answered = answered.filter(|(sent, accepted, _)| !ambiguous(sent, *accepted));
        let mut answered: Vec<_> = answered.map(|(_, accepted, key)| (accepted, key)).collect();
        answered.sort_unstable();
        let mut begun: Vec<_> =
            stream.iter().filter_map(|(sent, key)| Some((sent.attempts.first()?.began, *key))).collect();
        begun.sort_unstable();
        let mut answered = answered.into_iter().peekable();
        let mut greatest = None;
        for (began, key) in begun {
            while let Some((_, before)) = answered.next_if(|(at, _)| *at < began) {
                greatest = greatest.max(Some(before));
            }
            if let Some(before) = greatest.filter(|before| *before > key) {
                let detail = format!("stored at {}, before {} which was acknowledged earlier", key.0, before.1);
                verdict.found(Fault::Swapped, key.1, detail);
            }
        }
        // What one connection sent and had accepted at once must be stored in that order.
        let mut connections = HashMap::<u64, Vec<_>>::new();
        for (sent, key) in stream {
            if let [first, ..] = &sent.attempts[..]
                && first.is_accepted()
                && !ambiguous(sent, first.ended)
            {
                connections.entry(first.connection).or_default().push((first.began, *key));
            }
        }
        for mut sends in connections.into_values() {
            sends.sort_unstable();
            for pair in sends.windows(2) {
                if let [(_, earlier), (_, later)] = pair
                    && earlier > later
                {
                    verdict.found(Fault::Swapped, later.1, format!("stored before {}, sent after it", earlier.1));
                }
            }
        }
    }
}

/// Finds sends that are unanswered, late or lied.
fn answers(
    verdict: &mut Verdict,
    history: &History,
    documents: &HashMap<&str, Vec<&Document>>,
    circumstances: &Circumstances,
) {
    for sent in &history.sent {
        let id = sent.message().map_or_else(|| format!("tempId {}", sent.temp_id), |message| message.id.to_string());
        let answered = |attempt: &Attempt| !matches!(attempt.outcome, Outcome::TimedOut | Outcome::Disconnected);
        if !sent.attempts.iter().any(answered) {
            verdict.found(Fault::Unanswered, &id, format!("{} attempts, and no answer", sent.attempts.len()));
        }
        let was_late = |attempt: &&Attempt| {
            attempt.outcome != Outcome::Disconnected && attempt.ended_ms - attempt.began_ms > LATE_MS
        };
        let was_held = |attempt: &Attempt| {
            let meets = |span: &Span| attempt.began_ms <= span.to_ms && attempt.ended_ms >= span.from_ms;
            circumstances.answers_were_held.iter().any(meets)
        };
        if let Some(late) = sent.attempts.iter().filter(was_late).find(|attempt| !was_held(attempt)) {
            let waited = late.ended_ms - late.began_ms;
            verdict.found(Fault::Late, &id, format!("{} did not answer for {waited} ms", late.gateway));
        }
        let for_good = |attempt: &Attempt| matches!(attempt.outcome, Outcome::Refused { retryable: false, .. });
        if sent.attempts.iter().any(for_good) && documents.contains_key(id.as_str()) {
            verdict.found(Fault::Lied, &id, "refused for good, and stored");
        }
    }
}

/// Ghosts, hidden messages, and the order of what is shown.
fn histories(
    verdict: &mut Verdict,
    sends: &[(String, &Sent)],
    held: &Held,
    shown: &[Reading],
    circumstances: &Circumstances,
) {
    let cut_short = |(id, sent): &(String, &Sent)| was_cut_short(sent, circumstances).then(|| id.clone());
    let excused: HashSet<_> = sends.iter().filter_map(cut_short).collect();
    let accepted: HashSet<_> =
        sends.iter().filter(|(_, sent)| sent.accepted().is_some()).map(|(id, _)| id.as_str()).collect();
    let chats = held.chats();
    let read: BTreeSet<_> = shown.iter().filter(|reading| reading.whole).map(|reading| &*reading.chat).collect();
    let unread = chats.iter().filter(|(chat, _)| !read.contains(*chat)).flat_map(|(_, ids)| ids);
    let mut found: BTreeSet<(Fault, &str)> =
        unread.filter(|id| accepted.contains(*id)).map(|id| (Fault::Hidden, *id)).collect();
    for reading in shown {
        let mut stored = chats.get(&*reading.chat).map_or(&[][..], Vec::as_slice);
        if !reading.whole {
            stored = &stored[..stored.len().min(reading.ids.len())];
        }
        let shown: Vec<_> = reading.ids.iter().map(String::as_str).collect();
        let (in_store, in_history): (HashSet<&str>, HashSet<&str>) =
            (chats.get(&*reading.chat).into_iter().flatten().copied().collect(), shown.iter().copied().collect());
        let ghosts = shown.iter().filter(|id| !in_store.contains(*id) && !excused.contains(**id));
        found.extend(ghosts.map(|id| (Fault::Ghost, *id)));
        let hidden = stored.iter().filter(|id| !in_history.contains(*id) && accepted.contains(*id));
        found.extend(hidden.map(|id| (Fault::Hidden, *id)));
        let as_shown = shown.iter().filter(|id| in_store.contains(*id));
        let as_stored = stored.iter().filter(|id| in_history.contains(*id));
        found.extend(
            as_shown.zip(as_stored).find(|(shown, stored)| shown != stored).map(|(id, _)| (Fault::Swapped, *id)),
        );
    }
    for (fault, id) in found {
        verdict.found(fault, id, "in the history that clients read");
    }
}

/// Whether a gateway was killed while it had this send.
fn was_cut_short(sent: &Sent, circumstances: &Circumstances) -> bool {
    let during = |attempt: &Attempt, kill: &Kill| {
        attempt.gateway == kill.gateway && (attempt.began_ms..=attempt.ended_ms).contains(&kill.at_ms)
    };
    sent.attempts.iter().any(|attempt| circumstances.kills.iter().any(|kill| during(attempt, kill)))
}

/// Unseen, and what should never have been seen.
fn device(
    verdict: &mut Verdict,
    sends: &[(String, &Sent)],
    documents: &HashMap<&str, Vec<&Document>>,
    seen: &Seen,
    circumstances: &Circumstances,
) {
    for id in &seen.mutated {
        verdict.found(Fault::Mutated, id, format!("as {}/{} was shown it", seen.user, seen.device));
    }
    let always_there = seen.connections <= 1 && seen.resyncs == 0 && seen.gaps == 0;
    for (id, sent) in
        sends.iter().filter(|(id, _)| always_there && seen.has(id) && !documents.contains_key(id.as_str()))
    {
        // If a refused message's entry was trimmed before its retraction, devices on other gateways get no `messageFailed`.
        let refused = sent.attempts.iter().any(|attempt| matches!(attempt.outcome, Outcome::Refused { .. }));
        if !refused && !was_cut_short(sent, circumstances) {
            verdict.found(Fault::Ghost, id, format!("{}/{} has it, and nobody took it back", seen.user, seen.device));
        }
    }
    for (id, sent) in sends {
        let of_group = sent.group.as_ref().map(|group| seen.chats.contains(group));
        let concerned = of_group.unwrap_or(sent.sender == seen.user || sent.receiver == seen.user);
        if concerned && sent.accepted().is_some() && !seen.has(id) {
            verdict.found(Fault::Unseen, id, format!("device {} of {} never saw it", seen.device, seen.user));
        }
    }
}

/// Finds messages that one connection received twice.
fn twice(verdict: &mut Verdict, devices: &[Seen]) {
    for seen in devices {
        for (id, all) in &seen.live {
            let mut copies = BTreeMap::<_, Vec<_>>::new();
            all.iter().for_each(|live| copies.entry(live.connection).or_default().push(&live.position));
            if let Some((connection, positions)) = copies.iter().find(|(_, positions)| positions.len() > 1) {
                let detail = format!("at {positions:?} on connection {connection} of {}/{}", seen.user, seen.device);
                verdict.found(Fault::SeenTwice, id, detail);
            }
        }
    }
}

#[cfg(test)]
mod tests;

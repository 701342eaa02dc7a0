//! What is said over sockets, held against its description.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_gateway::refusal::Code;
use holdfast_gateway::wire::events::{client, server};
use holdfast_socketio_client::Client;
use holdfast_testkit::request;
use serde_json::{Value, json};

use crate::described::Description;
use crate::support::{Gateway, settings};

const SOON: Duration = Duration::from_secs(20);

async fn served(gateway: &Gateway) -> Description {
    Description(request(&gateway.url, "GET", "/api-docs/asyncapi.json", &[], "").await.unwrap().body)
}

impl Description {
    fn message(&self, name: &str) -> &Value {
        let message = &self.0["components"]["messages"][name];
        assert!(message.is_object(), "{name} is not described");
        message
    }

    fn example(&self, name: &str) -> &Value {
        &self.message(name)["examples"][0]["payload"]
    }

    /// Panics unless a positive answer is as described. What says that it is positive is a part of its own.
    fn answered(&self, event: &str, answer: &Value) {
        let mut fields = answer.clone();
        assert_eq!(fields.as_object_mut().unwrap().remove("ok"), Some(json!(true)), "{event}: {answer}");
        self.validate(&self.message(&format!("{event}Answer"))["payload"]["allOf"][1], &fields);
    }

    /// Panics unless an event of the gateway is as described.
    fn told(&self, name: &str, payload: &Value) {
        // An event of the same name may be a client's.
        let messages = self.0["components"]["messages"].as_object().unwrap();
        let own = format!("{name}Told");
        let message = messages.get(&own).unwrap_or_else(|| self.message(name));
        self.validate(&message["payload"], payload);
    }
}

#[test]
fn every_event_and_every_code_is_described_and_nothing_else() {
    let description = Description(holdfast_gateway::wire::asyncapi::description());
    let operations = description.0["operations"].as_object().unwrap();
    let names = |action: &str| -> BTreeSet<String> {
        let of_sockets = operations.values().filter(|operation| operation["channel"]["$ref"] == "#/channels/socket");
        of_sockets.filter(|one| one["action"] == action).map(|one| one["title"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("receive"), client::ALL.into_iter().map(String::from).collect());
    assert_eq!(names("send"), server::ALL.into_iter().chain(["connect_error"]).map(String::from).collect());
    let codes = Code::ALL.map(|code| json!(code.as_str()));
    assert_eq!(description.0["components"]["schemas"]["Code"]["enum"], json!(codes));
    let refusals = description.message("refusal")["examples"].as_array().unwrap();
    assert_eq!(refusals.iter().map(|example| example["name"].clone()).collect::<Vec<_>>(), codes);
}

#[test]
fn events_are_registered_and_emitted_by_the_names_that_are_described() {
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for call in [".on(", ".emit(", ".emit_within("] {
            for (at, _) in text.match_indices(call) {
                let argument = text[at + call.len()..].trim_start();
                assert!(!argument.starts_with('"'), "{}: {}", file.display(), &argument[..argument.len().min(40)]);
            }
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

#[test]
fn each_example_is_as_described() {
    let description = Description(holdfast_gateway::wire::asyncapi::description());
    for (name, message) in description.0["components"]["messages"].as_object().unwrap() {
        for example in message["examples"].as_array().into_iter().flatten() {
            description.accepts(&message["payload"], &example["payload"]);
        }
        let is_record = message["contentType"] == "application/x-protobuf";
        assert!(is_record || message["examples"].is_array(), "{name} has no example");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_events_and_answers_are_as_described() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = served(&gateway).await;
    // The examples speak of these two.
    let (alice, mut to_alice) = gateway.connect("alice").await;
    let (bob, mut to_bob) = gateway.connect("bob").await;
    // The send first, so that the others have something to find.
    let mut asked: Vec<_> = client::ALL.into_iter().filter(|event| *event != client::SEND_MESSAGE).collect();
    asked.insert(0, client::SEND_MESSAGE);
    let mut sent = Value::Null;
    for event in asked {
        let mut payload = description.example(event).clone();
        if event == client::MARK_READ {
            payload["upTo"] = sent["messageId"].clone();
        }
        let answer = alice.emit_with_ack(event, &payload).await.unwrap();
        description.answered(event, &answer);
        if event == client::SEND_MESSAGE {
            sent = answer["message"].clone();
        }
    }
    for payload in [json!({ "friendId": "alice" }), json!("text"), json!([])] {
        for event in client::ALL {
            let answer = alice.emit_with_ack(event, &payload).await.unwrap();
            if answer["ok"] == false {
                description.validate(&description.message("refusal")["payload"], &answer);
            }
        }
    }
    // What others heard of it, and what the handshake is told.
    let message = to_bob.next_named(server::NEW_MESSAGE, SOON).await.expect("a message");
    let offsets = json!({ "alice:bob": { "epoch": message["epoch"], "seq": 0 } });
    let handshake = json!({ "token": gateway.token("bob"), "offsets": offsets });
    let (again, mut to_again) = Client::connect_with(&gateway.url, &handshake).await.unwrap();
    let resumed = to_again.next_named(server::RESUMED, SOON).await.expect("what was missed");
    assert_eq!(resumed["chats"]["alice:bob"]["recovered"], true, "{resumed}");
    description.told(server::RESUMED, &resumed);
    description.told(server::NEW_MESSAGE, &message);
    bob.kill();
    again.kill();
    for events in [&mut to_alice, &mut to_bob, &mut to_again] {
        for event in events.arrived() {
            description.told(&event.name, &event.data);
        }
    }
}

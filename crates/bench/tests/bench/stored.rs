use std::time::Duration;

use holdfast_bench::stored::Messages;
use holdfast_testkit::{Mongo, unique};
use mongodb::bson::{Document, doc};

#[tokio::test]
async fn what_is_missing_twice_or_beyond_is_told() {
    let server = Mongo::start().await.unwrap();
    let name = unique("stored");
    let collection =
        mongodb::Client::with_uri_str(server.url()).await.unwrap().database(&name).collection::<Document>("messages");
    collection.insert_one(doc! { "_id": "older", "tempId": "other.1" }).await.unwrap();
    let messages = Messages::of(&server.url(), &name).await.unwrap();
    assert_eq!(messages.drained(1, Duration::from_millis(100)).await.unwrap(), None);

    let document = |id: &str, temp_id: &str| doc! { "_id": id, "tempId": temp_id };
    let stored = [document("a", "run.0"), document("b", "run.1"), document("c", "run.1"), document("d", "run.2")];
    collection.insert_many(stored).await.unwrap();
    let drained = messages.drained(3, Duration::from_secs(5)).await.unwrap();
    assert!(drained.is_some());
    let acknowledged = ["a", "b", "lost"].map(str::to_owned);
    let stored = messages.verify(&acknowledged, "run.", Duration::ZERO).await.unwrap();
    assert_eq!((stored.acknowledged, stored.lost, stored.duplicated, stored.beyond), (3, 1, 1, 1));
    let none = messages.verify(&[], "nobody.", Duration::ZERO).await.unwrap();
    assert_eq!((none.lost, none.duplicated, none.beyond), (0, 0, 0));
}

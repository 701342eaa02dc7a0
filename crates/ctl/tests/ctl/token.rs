use holdfast_gateway::auth::Verifier;
use holdfast_service::settings::Source;

use crate::support::World;

#[tokio::test]
async fn a_token_is_what_the_gateways_ask_for() {
    let world = World::new().await.set("JWT_AUDIENCE", "chat").set("JWT_ISSUER", "us");
    let ran = world.ctl(&["token", "alice", "--expires", "2h"]).await.expect(0);
    let config = holdfast_gateway::Config::read(Source::new(world.env.clone())).unwrap().value;
    let identity = Verifier::new(&config.own).unwrap().verify(ran.stdout.trim()).unwrap();
    assert_eq!(identity.still_valid().unwrap().as_str(), "alice");
    let json = world.ctl(&["--json", "token", "alice"]).await.expect(0).json();
    assert!(json[0]["token"].is_string() && json[0]["expiresAt"].is_i64(), "{json:?}");
    world.ctl(&["token", "a:b"]).await.expect(2);
    let mut world = world;
    world.env.remove("JWT_SECRET");
    assert!(world.ctl(&["token", "alice"]).await.expect(2).stderr.contains("JWT_SECRET"));
}

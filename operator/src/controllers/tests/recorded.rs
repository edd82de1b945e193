//! What was tried: what the watch tells of it, what the API says right before a step.

use super::super::actions::{Remembered, refresh};
use super::super::record::{self, Keep};
use super::*;
use binder_core::plan::memory::History;
use binder_crds::{ActionOutcome, BinderActionStatus};

const NOW: &str = "2026-11-01T00:01:00Z";

async fn memory(context: &Context, host: &BinderHost) -> History {
    let keep =
        Keep::of(context.config.keep_actions(), &BinderHostStatus::default(), Duration::ZERO, NOW.parse().unwrap());
    record::memory(context, host, &host.uid().unwrap(), keep).await.unwrap()
}

fn names(memory: &History) -> Vec<&str> {
    memory.actions.iter().map(|past| past.name.as_str()).collect()
}

/// Has the watch tell of everything there is.
fn list(context: &Context, objects: &[Value]) {
    context.actions.told(Event::Init);
    for one in objects {
        context.actions.told(Event::InitApply(object(one.clone())));
    }
    context.actions.told(Event::InitDone);
}

#[tokio::test]
async fn what_was_tried_is_known_without_asking_the_api() {
    let server = Server::default();
    let context = context(&server);
    assert!(!context.actions.are_read());
    list(&context, &[server.put(ACTIONS, action("web-1", "h"))]);
    assert!(context.actions.are_read());
    assert_eq!(names(&memory(&context, &host("h")).await), ["web-1"]);
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_watch_that_is_behind_delays_a_step_and_never_causes_one() {
    let server = Server::default();
    let context = context(&server);
    let host = host("h");
    list(&context, &[]);
    let decided_on = Remembered::of(&memory(&context, &host).await);
    assert!(record::still_remembered(&context, &host, decided_on).await.unwrap(), "nothing was tried");

    // Another operator, or an earlier process of this one, has begun something that the watch has not told of.
    server.put(ACTIONS, action("web-1", "h"));
    assert!(!record::still_remembered(&context, &host, decided_on).await.unwrap());
    let now = memory(&context, &host).await;
    assert_eq!(names(&now), ["web-1"], "and is remembered when it is decided again");
    assert!(record::still_remembered(&context, &host, Remembered::of(&now)).await.unwrap());

    // Somebody deletes it to have the step tried again, and that is not told either.
    server.remove(&format!("{ACTIONS}/web-1"));
    assert!(!record::still_remembered(&context, &host, Remembered::of(&now)).await.unwrap());
    assert!(memory(&context, &host).await.actions.is_empty());
}

#[tokio::test]
async fn an_action_whose_labels_are_taken_away_counts_all_the_same() {
    let server = Server::default();
    let context = context(&server);
    let mut stripped = action("web-1", "h");
    stripped["metadata"]["labels"] = json!({});
    list(&context, &[server.put(ACTIONS, stripped)]);
    let known = memory(&context, &host("h")).await;
    assert_eq!(names(&known), ["web-1"]);
    assert!(record::still_remembered(&context, &host("h"), Remembered::of(&known)).await.unwrap());
    assert_eq!(
        names(&memory(&context, &host("h")).await),
        ["web-1"],
        "a list by labels that does not find it ends nothing"
    );
}

#[tokio::test]
async fn what_the_operator_writes_is_known_before_the_watch_tells_it_and_not_taken_back_by_it() {
    let server = Server::default();
    let context = context(&server);
    let before = server.put(ACTIONS, action("web-1", "h"));
    list(&context, std::slice::from_ref(&before));
    let ended = BinderActionStatus { outcome: Some(ActionOutcome::Failed), ..BinderActionStatus::default() };
    record::update(&context, "binder", "web-1", &ended).await.unwrap();
    let outcome = async || memory(&context, &host("h")).await.actions[0].outcome;
    assert_eq!(outcome().await, Some(ActionOutcome::Failed));
    context.actions.told(Event::Apply(object(before.clone())));
    assert_eq!(outcome().await, Some(ActionOutcome::Failed), "the watch is behind");
    context.actions.told(Event::Init);
    record::update(&context, "binder", "web-1", &ended).await.unwrap();
    context.actions.told(Event::InitApply(object(before)));
    context.actions.told(Event::InitDone);
    assert_eq!(outcome().await, Some(ActionOutcome::Failed), "and so is a list that was being read");
}

/// As `cargo sim` found it: the outcome that etcd has forgotten stayed in memory, and the open action was never ended.
#[tokio::test(start_paused = true)]
async fn what_a_restored_etcd_has_forgotten_is_forgotten() {
    let server = Server::default();
    let context = context(&server);
    let before = server.put(ACTIONS, action("web-1", "h"));
    list(&context, std::slice::from_ref(&before));
    let ended = BinderActionStatus { outcome: Some(ActionOutcome::Failed), ..BinderActionStatus::default() };
    record::update(&context, "binder", "web-1", &ended).await.unwrap();
    let outcome = async || memory(&context, &host("h")).await.actions[0].outcome;
    for tells in [Event::Apply(object(before.clone())), Event::InitApply(object(before.clone()))] {
        context.actions.told(Event::Apply(object(server.get(&format!("{ACTIONS}/web-1")).unwrap())));
        assert_eq!(outcome().await, Some(ActionOutcome::Failed));
        tokio::time::advance(Duration::from_secs(600)).await;
        let lists = matches!(tells, Event::InitApply(_));
        lists.then(|| context.actions.told(Event::Init));
        context.actions.told(tells);
        lists.then(|| context.actions.told(Event::InitDone));
        assert_eq!(outcome().await, None);
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_is_said_once_and_is_no_memory() {
    let server = Server::default();
    let context = context(&server);
    let mut forged = action("web-1", "h");
    forged["metadata"]["managedFields"][0]["manager"] = json!("kubectl-create");
    list(&context, &[server.put(ACTIONS, forged)]);
    context.known().insert("h".to_owned(), HostCache::default());
    for _ in 0..3 {
        assert!(memory(&context, &host("h")).await.actions.is_empty());
    }
    let told = server.asked().iter().filter(|asked| asked.starts_with("POST") && asked.contains("events")).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn an_action_that_is_old_is_let_go_of() {
    let server = Server::default();
    let context = context(&server);
    let mut old = action("web-1", "h");
    old["status"] = json!({"outcome": "Succeeded", "finishedAt": "2026-10-01T00:00:00Z"});
    old["spec"]["decidedAt"] = json!("2026-10-01T00:00:00Z");
    list(&context, &[server.put(ACTIONS, old)]);
    assert!(memory(&context, &host("h")).await.actions.is_empty());
    assert_eq!(server.get(&format!("{ACTIONS}/web-1")), None);
    refresh(&context, "binder", "web").await.unwrap();
    assert!(memory(&context, &host("h")).await.actions.is_empty());
}

#[tokio::test]
async fn an_api_that_fails_right_before_a_step_ends_the_step() {
    let server = Server::default();
    let context = context(&server);
    list(&context, &[]);
    let decided_on = Remembered::of(&History::default());
    server.refuse(|method, _| (method == http::Method::GET).then_some(503));
    assert!(record::still_remembered(&context, &host("h"), decided_on).await.is_err());
}

fn tried(outcome: &str, finished: &str, incident: &str) -> Value {
    let mut tried = action("web-1", "earlier");
    tried["spec"]["incidentSince"] = json!(incident);
    tried["status"] = json!({"outcome": outcome, "finishedAt": finished});
    tried
}

#[tokio::test]
async fn a_host_that_is_made_again_has_the_attempts_of_the_one_before() {
    let inherited = |tried: Value, now: &str| {
        let server = Server::default();
        let context = context(&server);
        list(&context, &[server.put(ACTIONS, tried)]);
        let refill = Duration::from_secs(900);
        record::inherited(&context, "binder", "web", refill, now.parse().unwrap()).map(|since| since.to_string())
    };
    let began = "2026-11-01T00:00:00Z";
    let failed = tried("Failed", "2026-11-01T00:05:00Z", began);
    assert_eq!(inherited(failed.clone(), "2026-11-01T00:06:00Z").as_deref(), Some(began));
    assert_eq!(
        inherited(failed, "2026-11-03T00:00:00Z").as_deref(),
        Some(began),
        "nothing says that it was ever mended"
    );
    let helped = tried("Succeeded", "2026-11-01T00:05:00Z", began);
    assert_eq!(inherited(helped.clone(), "2026-11-01T00:10:00Z").as_deref(), Some(began), "it helped a moment ago");
    assert_eq!(inherited(helped, "2026-11-01T00:20:00Z"), None);
    assert_eq!(inherited(action("web-1", "earlier"), NOW), None, "a task belongs to no incident");

    let server = Server::default();
    let context = context(&server);
    list(&context, &[server.put(ACTIONS, tried("Succeeded", "2026-11-01T00:05:00Z", began))]);
    assert_eq!(
        names(&memory(&context, &host("later")).await),
        ["web-1"],
        "a reboot counts by the day, whatever the UID"
    );
}

#[tokio::test]
async fn the_trail_of_a_host_that_is_gone_stays_until_it_is_old() {
    let server = Server::default();
    let context = context(&server);
    let mut other = action("web-2", "earlier");
    other["metadata"]["managedFields"] = json!([]);
    let begun = action("web-3", "earlier");
    let ended = tried("Failed", "2026-11-01T00:05:00Z", "2026-11-01T00:00:00Z");
    list(&context, &[ended, other, begun].map(|one| server.put(ACTIONS, one)));
    record::tidy(&context, "2026-11-01T00:04:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(server.asked(), Vec::<String>::new(), "its effect may still be seen: the host may be made again");
    record::tidy(&context, "2026-11-01T01:00:00Z".parse().unwrap()).await.unwrap();
    let outcome = server.get(&format!("{ACTIONS}/web-3")).unwrap()["status"]["outcome"].clone();
    assert_eq!((outcome, server.asked().len()), (json!("Unknown"), 1));
    record::tidy(&context, "2026-11-09T00:00:00Z".parse().unwrap()).await.unwrap();
    let left = |name: &str| server.get(&format!("{ACTIONS}/{name}")).is_some();
    assert!(!left("web-1") && left("web-2") && !left("web-3"), "what somebody else wrote is his");
}

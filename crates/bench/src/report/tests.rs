use super::*;

fn measurement(subject: Subject, round: usize, figures: &[(&str, f64)]) -> Measurement {
    let mut values = Values::default();
    figures.iter().for_each(|(name, value)| values.add(*name, *value));
    let speed = Speed { steps: 1.0, round_trips: 1.0 };
    Measurement { workload: Workload::Closed100, subject, round, speed, foreign: 0.0, values }
}

#[test]
fn a_table_shows_medians_spread_and_how_others_compare_round_by_round() {
    let measurements = [
        measurement(Subject::Twin, 0, &[("messages/s", 2000.0)]),
        measurement(Subject::Twin, 1, &[("messages/s", 1000.0)]),
        measurement(Subject::Holdfast, 0, &[("messages/s", 5000.0), ("answer p50, ms", 6.25)]),
        measurement(Subject::Holdfast, 1, &[("messages/s", 7000.0), ("answer p50, ms", 6.25)]),
        measurement(Subject::Holdfast, 2, &[("messages/s", 4000.0), ("answer p50, ms", 6.25)]),
    ];
    let summaries = summaries(&measurements);
    assert_eq!((summaries[0].median, summaries[0].min, summaries[0].max), (5000.0, 4000.0, 7000.0));
    let text = table(&summaries.iter().collect::<Vec<_>>());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "|                |              Holdfast |             Node twin | Holdfast / Node twin |");
    assert_eq!(lines[2], "| messages/s     | 5,000 (4,000 – 7,000) | 1,500 (1,000 – 2,000) |      4.75 (2.50 – 7) |");
    assert_eq!(lines[3], "| answer p50, ms |                  6.25 |                       |                      |");
}

#[test]
fn what_is_worse_than_before_is_named() {
    let before =
        [("messages/s", 1000.0), ("answer p50, ms", 5.0), ("answer max, ms", 9.0), ("CPU gateway, µs a message", 50.0)];
    let ours =
        [("messages/s", 960.0), ("answer p50, ms", 5.1), ("answer max, ms", 90.0), ("CPU gateway, µs a message", 60.0)];
    let measurements = [measurement(Subject::Before, 0, &before), measurement(Subject::Holdfast, 0, &ours)];
    let expected = [
        "Closed loop, 100 bytes: messages/s: 0.96 times",
        "Closed loop, 100 bytes: CPU gateway, µs a message: 1.20 times",
    ];
    assert_eq!(slower(&summaries(&measurements)), expected);
}

#[test]
fn the_picture_shows_each_subject_that_the_open_loop_has_measured() {
    let figures = [("100/s: answer p50, ms", 5.0), ("100/s: answer p99, ms", 9.0), ("2000/s: answer p99, ms", 50.0)];
    let mut measurements = [measurement(Subject::Holdfast, 0, &figures), measurement(Subject::Twin, 0, &figures)];
    assert_eq!(plot::latencies(&summaries(&measurements)), None);
    measurements[0].workload = Workload::Open;
    let picture = plot::latencies(&summaries(&measurements)).unwrap();
    assert!(picture.contains(">Holdfast</text>") && !picture.contains("Node twin"), "{picture}");
    assert_eq!(picture.matches("fill=\"none\"").count(), 2, "{picture}");
}

#[test]
fn figures_have_as_many_digits_as_say_something() {
    let shown = [0.0, 0.123, 12.34, 123.4, 1234.5, 1_234_567.0, f64::INFINITY].map(figure);
    assert_eq!(shown, ["0", "0.12", "12.3", "123", "1,235", "1,234,567", "never"]);
}

#[test]
fn a_document_keeps_everything_outside_of_the_marks() {
    let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
    let once = replaced(&text, "new").unwrap();
    assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
    assert_eq!(replaced(&once, "new").unwrap(), once);
    assert_eq!(replaced("no marks", "new"), None);
}

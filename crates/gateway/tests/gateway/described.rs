//! A description, and what is held against it: real answers, strictly.

use holdfast_testkit::{Response, request};
use serde_json::{Value, json};

/// An OpenAPI or AsyncAPI document.
pub(crate) struct Description(pub(crate) Value);

impl Description {
    /// The one that a gateway serves.
    pub(crate) async fn served(url: &str) -> Self {
        Self(request(url, "GET", "/api-docs/openapi.json", &[], "").await.unwrap().body)
    }

    /// Every operation: path, method, description.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.0["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    /// Panics unless the answer is one that the operation is described to give.
    pub(crate) fn check(&self, method: &str, path: &str, answer: &Response) {
        let operation = &self.0["paths"][path][method.to_lowercase()];
        let described = &operation["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{method} {path}: {} is not described: {answer:?}", answer.status);
        if answer.status == 204 {
            assert!(answer.bytes.is_empty() && described.get("content").is_none(), "{method} {path}: {answer:?}");
            return;
        }
        let kind = answer.header("content-type").unwrap_or_default();
        let content = &described["content"][kind];
        assert!(content.is_object(), "{method} {path}: {kind} is not described: {answer:?}");
        self.validate(&content["schema"], &answer.body);
        if let Some(code) = answer.body.get("code") {
            let example = &content["examples"][code.as_str().unwrap()];
            assert!(example.is_object(), "{method} {path}: {code} is not described");
        }
    }

    /// Panics unless the value is as the schema says, without fields that it does not name.
    pub(crate) fn validate(&self, schema: &Value, value: &Value) {
        let mut components = self.0["components"].clone();
        close(&mut components["schemas"]);
        judge(&json!({ "allOf": [schema], "components": components }), value);
    }

    /// The same for what clients say: unknown fields are ignored there.
    pub(crate) fn accepts(&self, schema: &Value, value: &Value) {
        judge(&json!({ "allOf": [schema], "components": self.0["components"] }), value);
    }
}

fn judge(schema: &Value, value: &Value) {
    let validator = jsonschema::draft202012::new(schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{value}\nis not {}:\n{}", schema["allOf"], errors.join("\n"));
}

/// Makes unknown fields errors in every object that names its fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            // Not where `properties` is the name of a field.
            if fields.get("type") == Some(&json!("object")) && fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".into(), json!(false));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

/// A path with something in the place of each parameter.
pub(crate) fn filled(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "someone" } else { part }).collect::<Vec<_>>().join("/")
}

// Makes the types in src/generated from docs/openapi.json and docs/asyncapi.json. A test holds the files against what this makes.
import { readFile, writeFile } from "node:fs/promises";
import { compile } from "json-schema-to-typescript";
import openapi, { astToString } from "openapi-typescript";

const documents = new URL("../../../docs/", import.meta.url);
const target = new URL("../src/generated/", import.meta.url);
const banner = (source) => `// Made from docs/${source} by \`npm run generate\`. Do not edit.\n`;

async function rest() {
  const document = JSON.parse(await readFile(new URL("openapi.json", documents), "utf8"));
  return banner("openapi.json") + astToString(await openapi(document));
}

async function events() {
  const document = JSON.parse(await readFile(new URL("asyncapi.json", documents), "utf8"));
  const own = (node) => JSON.parse(JSON.stringify(node).replaceAll("#/components/schemas/", "#/definitions/"));
  const definitions = {};
  for (const [name, { title: _, ...schema }] of Object.entries(own(document.components.schemas))) {
    // A name of a property's keys is of no use to TypeScript.
    definitions[name] = JSON.parse(
      JSON.stringify(schema, (key, value) => (key === "propertyNames" ? undefined : value)),
    );
  }
  const types = await compile(
    { title: "Schemas", definitions, type: "object", additionalProperties: false },
    "Schemas",
    {
      additionalProperties: false,
      bannerComment: "",
      format: false,
      unreachableDefinitions: true,
    },
  );
  const message = (reference) => {
    const { $ref } = at(document, reference.$ref);
    return at(document, $ref);
  };
  const schemaOf = ({ payload }) => {
    const reference = payload.$ref ?? payload.allOf?.find((part) => part.$ref)?.$ref;
    if (!reference) throw new Error(`a payload without a name: ${JSON.stringify(payload)}`);
    return reference.split("/").at(-1);
  };
  const toServer = [];
  const toClient = [];
  for (const { action, channel, messages, reply, summary } of Object.values(document.operations)) {
    if (channel.$ref !== "#/channels/socket") continue;
    const [first] = messages.map(message);
    const comment = `  /** ${summary} */\n`;
    if (action === "receive") {
      const [answer] = reply.messages.map(message);
      toServer.push(`${comment}  ${first.name}: { request: ${schemaOf(first)}; answer: ${schemaOf(answer)} };\n`);
    } else if (first.name !== "connect_error") {
      toClient.push(`${comment}  ${first.name}: ${schemaOf(first)};\n`);
    }
  }
  const map = (name, comment, lines) =>
    `\n/** ${comment} */\nexport interface ${name} {\n${lines.sort(byName).join("")}}\n`;
  return (
    banner("asyncapi.json") +
    types
      .replace(
        / \*\s*\n \* This interface was referenced by `Schemas`'s JSON-Schema\n \* via the `definition` "\w+"\.\n/g,
        "",
      )
      .replace(/export interface Schemas \{\s*\}\n/, "")
      .trimStart() +
    map("ClientEvents", "What a client asks for, and the positive answer.", toServer) +
    map("ServerEvents", "What the server tells.", toClient)
  );
}

const nameOf = (line) => /^ {2}(\w+):/m.exec(line)[1];
const byName = (one, other) => (nameOf(one) < nameOf(other) ? -1 : 1);
const at = (document, pointer) =>
  pointer
    .slice(2)
    .split("/")
    .reduce((node, key) => node[key], document);

/** The files by name. */
export const generate = async () => ({ "rest.ts": await rest(), "events.ts": await events() });

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const [name, text] of Object.entries(await generate())) await writeFile(new URL(name, target), text);
}

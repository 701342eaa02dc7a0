import { type components, HoldfastError, type paths } from "@holdfast/client";
import { isCut } from "./line";

type Problem = components["schemas"]["Problem"];
type Methods = "get" | "put" | "post" | "patch" | "delete";
type Of<Path extends keyof paths, Method extends Methods> = NonNullable<paths[Path][Method]>;
type Json<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type Success<T> = T extends { responses: infer Responses }
  ? { [Code in keyof Responses]: Code extends 200 | 201 ? Json<Responses[Code]> : never }[keyof Responses]
  : never;
type Body<T> = T extends { requestBody?: infer Given } ? Json<NonNullable<Given>> : never;

export type Group = components["schemas"]["Group"];
export type Role = components["schemas"]["GroupMemberRole"];
export type Profile = components["schemas"]["Profile"];
export type Friendship = components["schemas"]["FriendshipStatus"];

export interface Request<Given> {
  path?: Record<string, string>;
  body?: Given;
  /** Of a request that must not be carried out twice. */
  key?: string;
}

const ANSWER_MS = 10_000;

/** Calls routes as docs/openapi.json describes them. */
export class Api {
  constructor(private readonly token: (refresh: boolean) => Promise<string>) {}

  /** The positive answer; a refusal is a `HoldfastError`. */
  async call<Path extends keyof paths, Method extends Methods>(
    method: Method,
    path: Path,
    request: Request<Body<Of<Path, Method>>> = {},
  ): Promise<Success<Of<Path, Method>>> {
    const response = await this.fetch(method, path, request, false);
    const text = await response.text();
    if (response.ok) return (text === "" ? undefined : JSON.parse(text)) as Success<Of<Path, Method>>;
    throw refusal(response.status, text);
  }

  private async fetch(method: string, path: string, request: Request<unknown>, refresh: boolean): Promise<Response> {
    const token = await this.token(refresh);
    if (isCut()) throw new HoldfastError("TIMEOUT", "the line is cut", true);
    const url = path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(request.path?.[name] ?? ""));
    const response = await fetch(url, {
      method: method.toUpperCase(),
      headers: {
        authorization: `Bearer ${token}`,
        ...(request.body !== undefined && { "content-type": "application/json" }),
        ...(request.key !== undefined && { "idempotency-key": request.key }),
      },
      ...(request.body !== undefined && { body: JSON.stringify(request.body) }),
      signal: AbortSignal.timeout(ANSWER_MS),
    }).catch(() => {
      throw new HoldfastError("TIMEOUT", "the gateway can't be reached", true);
    });
    return response.status === 401 && !refresh ? this.fetch(method, path, request, true) : response;
  }
}

function refusal(status: number, text: string): HoldfastError {
  try {
    const { code, detail, title, retryable } = JSON.parse(text) as Problem & { title?: string };
    return new HoldfastError(code, detail ?? title ?? code, retryable);
  } catch {
    return new HoldfastError("INTERNAL", `answered with ${status}`, status >= 500);
  }
}

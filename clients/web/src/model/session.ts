/** Who uses this page, and with which token. */
export interface Session {
  userId: string;
  token: string;
  /** `name`: the gateway gives a token to whoever asks, as the development profile does. `token`: the user has one. */
  by: "name" | "token";
}

const KEY = "holdfast session";

/** How the gateway lets one sign in; it says so in the page. */
export function signInBy(): Session["by"] {
  const meta = document.querySelector<HTMLMetaElement>('meta[name="holdfast-sign-in"]');
  return meta?.content === "name" ? "name" : "token";
}

/** This tab's session, or else the one that was begun last: tabs may belong to different users. */
export function savedSession(): Session | undefined {
  for (const storage of [sessionStorage, localStorage]) {
    try {
      const { userId, token, by } = JSON.parse(storage.getItem(KEY) ?? "") as Session;
      if (subject(token) !== userId || (by !== "name" && by !== "token")) continue;
      const session = { userId, token, by };
      sessionStorage.setItem(KEY, JSON.stringify(session));
      return session;
    } catch {}
  }
  return undefined;
}

export function saveSession(session: Session): void {
  const text = JSON.stringify(session);
  sessionStorage.setItem(KEY, text);
  localStorage.setItem(KEY, text);
}

export function endSession({ userId }: Session): void {
  sessionStorage.removeItem(KEY);
  try {
    const last = JSON.parse(localStorage.getItem(KEY) ?? "") as Session;
    if (last.userId === userId) localStorage.removeItem(KEY);
  } catch {
    localStorage.removeItem(KEY);
  }
}

/** Whose token it is. Whether it is valid is the gateway's to say. */
export function subject(token: string): string | undefined {
  try {
    const payload = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const { sub } = JSON.parse(atob(payload)) as { sub?: unknown };
    return typeof sub === "string" ? sub : undefined;
  } catch {
    return undefined;
  }
}

export const USER_ID = /^[A-Za-z0-9_.-]{1,64}$/;

/** The development profile's token. */
export async function developmentToken(userId: string): Promise<string> {
  const answer = await fetch("/api/dev/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ userId }),
  });
  if (!answer.ok) throw new Error(answer.status === 400 ? "This is no user name" : `No token: ${answer.status}`);
  return ((await answer.json()) as { token: string }).token;
}

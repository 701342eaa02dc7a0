import { useState } from "react";
import { developmentToken, type Session, signInBy, subject, USER_ID } from "../model/session";
import { AskForm, Field } from "./parts";

/** Whoever uses this gateway's development profile is whom they say; anybody else has a token from their application. */
export function SignIn({ signedIn, again }: { signedIn: (session: Session) => void; again?: string | undefined }) {
  const by = signInBy();
  const [text, setText] = useState(by === "name" ? (again ?? "") : "");
  const submit = async () => {
    const given = text.trim();
    const token = by === "name" ? await developmentToken(name(given)) : given;
    const userId = subject(token);
    if (userId === undefined) throw new Error("This is no token");
    if (again !== undefined && userId !== again) throw new Error(`This token belongs to ${userId}, not to ${again}`);
    signedIn({ userId, token, by });
  };
  return (
    <main className="sign-in">
      <div className="card">
        <img src="/web/icon.svg" alt="" width="56" height="56" />
        <h1>Holdfast</h1>
        <p>A chat that does not lose messages.</p>
        <AskForm action="Sign in" submit={submit} disabled={text.trim() === ""}>
          {by === "name" ? (
            <Field
              id="user"
              label="User name"
              hint="A development gateway: everybody is who they say. Sign in as alice here, and as bob in another window."
              value={text}
              onChange={(event) => setText(event.target.value)}
              maxLength={64}
              autoFocus
            />
          ) : (
            <Field
              id="token"
              label="Token"
              hint="Your application’s JWT."
              type="password"
              value={text}
              onChange={(event) => setText(event.target.value)}
              autoFocus
            />
          )}
        </AskForm>
      </div>
    </main>
  );
}

function name(given: string): string {
  if (USER_ID.test(given)) return given;
  throw new Error("Letters, digits, “_”, “.” and “-”, at most 64 of them");
}

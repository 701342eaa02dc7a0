import type { Message } from "@holdfast/client";
import { useCallback, useEffect, useMemo, useState } from "react";
import { Hub } from "../model/hub";
import { endSession, type Session, savedSession, saveSession } from "../model/session";
import { ChatView } from "./ChatView";
import { HubContext, useHub, useHubState } from "./context";
import { notify } from "./notify";
import { Sidebar } from "./Sidebar";
import { SignIn } from "./SignIn";

export function App() {
  const [session, setSession] = useState(savedSession);
  const signedIn = useCallback((given: Session) => {
    saveSession(given);
    setSession(given);
  }, []);
  if (!session) return <SignIn signedIn={signedIn} />;
  // One hub for a session: a new token is a new session.
  return <SignedIn key={session.token} session={session} signedIn={signedIn} signedOut={() => setSession(undefined)} />;
}

function SignedIn({
  session,
  signedIn,
  signedOut,
}: {
  session: Session;
  signedIn: (session: Session) => void;
  signedOut: () => void;
}) {
  const [hub, setHub] = useState<Hub>();
  useEffect(() => {
    const made = new Hub(session, { notify: (message: Message, of: Hub) => notify(message, of) });
    setHub(made);
    return () => made.close();
  }, [session]);
  const signOut = useMemo(
    () => () => {
      hub?.forget();
      endSession(session);
      history.replaceState(null, "", location.pathname);
      signedOut();
    },
    [hub, session, signedOut],
  );
  if (!hub) return null;
  return (
    <HubContext value={hub}>
      <Workspace signOut={signOut} signedIn={signedIn} />
    </HubContext>
  );
}

function addressed(): string | undefined {
  try {
    return decodeURIComponent(location.hash.slice(1)) || undefined;
  } catch {
    return undefined;
  }
}

/** Which chat is open: the address says so, so that "back", a reload and a link work. */
function useOpenChat(): [string | undefined, (chatId: string | undefined) => void] {
  const [open, setOpen] = useState(addressed);
  useEffect(() => {
    const changed = () => setOpen(addressed());
    const asked = ({ data }: MessageEvent<{ hash?: unknown }>) => {
      if (typeof data?.hash === "string" && data.hash.startsWith("#")) location.hash = data.hash;
    };
    addEventListener("hashchange", changed);
    navigator.serviceWorker?.addEventListener("message", asked);
    return () => {
      removeEventListener("hashchange", changed);
      navigator.serviceWorker?.removeEventListener("message", asked);
    };
  }, []);
  const show = useCallback((chatId: string | undefined) => {
    location.hash = chatId === undefined ? "" : encodeURIComponent(chatId);
  }, []);
  return [open, show];
}

function Workspace({ signOut, signedIn }: { signOut: () => void; signedIn: (session: Session) => void }) {
  const hub = useHub();
  const [open, show] = useOpenChat();
  const total = useHubState((state) => state.total);
  const expired = useHubState((state) => state.expired);
  useEffect(() => {
    document.title = total > 0 ? `(${total}) Holdfast` : "Holdfast";
  }, [total]);
  useEffect(() => {
    hub.open = open;
    if (open !== undefined) hub.opened(open);
  }, [hub, open]);
  if (expired) return <SignIn signedIn={signedIn} again={hub.userId} />;
  return (
    <main className={`workspace ${open === undefined ? "at-list" : "at-chat"}`}>
      <Banner />
      <Sidebar open={open} show={show} signOut={signOut} />
      {open === undefined ? (
        <div className="chat none">
          <p>Choose a conversation, or begin a new one.</p>
        </div>
      ) : (
        <ChatView key={open} chatId={open} close={() => show(undefined)} />
      )}
      <Notice />
      <Said />
    </main>
  );
}

/** Where the connection stands, if it is not there. */
function Banner() {
  const hub = useHub();
  const status = useHubState((state) => state.status);
  const cut = useHubState((state) => state.cut);
  const connected = useHubState((state) => state.connected);
  // A connection that is only being made is no news.
  const [late, setLate] = useState(false);
  useEffect(() => {
    if (status === "online") return setLate(false);
    const timer = setTimeout(() => setLate(true), connected ? 500 : 2_500);
    return () => clearTimeout(timer);
  }, [status, connected]);
  return (
    <div role="status" className="banner-place">
      {(late || cut) && status !== "online" && (
        <div className="banner">
          <span>
            <strong>{cut ? "The line is cut." : "No connection."}</strong> What you write is kept, and sent when it is
            back.
          </span>
          {cut && (
            <button type="button" onClick={() => hub.cut(false)}>
              Mend the line
            </button>
          )}
        </div>
      )}
    </div>
  );
}

function Notice() {
  const hub = useHub();
  const notice = useHubState((state) => state.notice);
  useEffect(() => {
    if (!notice) return;
    const timer = setTimeout(() => hub.notice(""), 6_000);
    return () => clearTimeout(timer);
  }, [notice, hub]);
  return (
    <div role="alert" className="notice-place">
      {notice && <div className="notice">{notice}</div>}
    </div>
  );
}

/** What a screen reader says when something comes: the list itself is no live region, since it is also scrolled through. */
function Said() {
  const text = useHubState((state) => state.said);
  return (
    <div aria-live="polite" className="hidden">
      {text}
    </div>
  );
}

import { HoldfastError, type ViewMessage } from "@holdfast/client";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { friendOf, isGroup } from "../model/conversations";
import { said } from "../model/hub";
import { Composer } from "./Composer";
import { useHub, useHubState, useTitle } from "./context";
import { GroupDetails, PersonDetails } from "./Details";
import { Back, Close, Down, More, Search, Up } from "./icons";
import { MessageList, type MessageListHandle } from "./MessageList";
import { Avatar, IconButton } from "./parts";
import { seen } from "./times";

const PAGE = 50;
/** A page that could not be read is asked for again after so long; the client itself has tried for half a minute then. */
const AGAIN_MS = 5_000;

export function ChatView({ chatId, close }: { chatId: string; close: () => void }) {
  const hub = useHub();
  const friend = friendOf(chatId, hub.userId);
  const ours = friend !== undefined || isGroup(chatId);
  const title = useTitle(chatId, friend);
  const [details, setDetails] = useState(false);
  const [searching, setSearching] = useState(false);
  if (!ours) {
    return (
      <div className="chat none">
        <p>There is no such chat.</p>
      </div>
    );
  }
  return (
    <section className="chat" aria-label={`Chat: ${title}`}>
      <header className="bar">
        <IconButton label="Back to the conversations" className="back" onClick={close}>
          <Back />
        </IconButton>
        <Avatar id={friend ?? chatId} name={title} />
        <div className="grow">
          <h1>
            <bdi>{title}</bdi>
          </h1>
          <Presence chatId={chatId} friend={friend} />
        </div>
        <IconButton label="Search in this chat" aria-expanded={searching} onClick={() => setSearching(!searching)}>
          <Search />
        </IconButton>
        <IconButton label={friend ? "About this person" : "About this group"} onClick={() => setDetails(true)}>
          <More />
        </IconButton>
      </header>
      <Conversation chatId={chatId} title={title} searching={searching} endSearch={() => setSearching(false)} />
      {details && friend !== undefined && <PersonDetails userId={friend} close={() => setDetails(false)} />}
      {details && friend === undefined && <GroupDetails chatId={chatId} close={() => setDetails(false)} />}
    </section>
  );
}

/** Who types, or else who is there. */
function Presence({ chatId, friend }: { chatId: string; friend: string | undefined }) {
  const hub = useHub();
  const typing = useHubState((state) => state.typing[chatId]);
  const there = useHubState((state) => state.status === "online");
  const online = useHubState((state) => friend !== undefined && state.online[friend] === true);
  const lastSeen = useHubState((state) => (friend === undefined ? undefined : state.lastSeen[friend]));
  const members = useHubState((state) => state.groups[chatId]?.members);
  const present = useHubState((state) => members?.filter(({ userId }) => state.online[userId]).length ?? 0);
  let text = "";
  if (typing && typing.length > 0) {
    const names = typing.map((userId) => hub.name(userId));
    text =
      friend !== undefined ? "typing…" : `${names.slice(0, 3).join(", ")} ${names.length === 1 ? "is" : "are"} typing…`;
  } else if (friend === undefined) {
    if (members) text = `${members.length} members${there && present > 0 ? `, ${present} online` : ""}`;
  } else if (there) {
    text = online ? "online" : lastSeen ? seen(lastSeen) : "";
  }
  return (
    <p className={`state ${typing && typing.length > 0 ? "is-typing" : ""}`} role="status">
      {text}
    </p>
  );
}

/** The chat's messages, and where its history stands. */
function useMessages(chatId: string) {
  const hub = useHub();
  const chat = useMemo(() => hub.client.chat(chatId), [hub, chatId]);
  const messages = useSyncExternalStore(chat.subscribe, () => chat.messages);
  const status = useHubState((state) => state.status);
  const [reading, setReading] = useState(false);
  const [trouble, setTrouble] = useState("");
  const [again, setAgain] = useState(0);
  const busy = useRef(false);
  const [opened, setOpened] = useState(hub.begun.has(chatId));
  const older = useCallback(async () => {
    if (busy.current || chat.complete) return;
    busy.current = true;
    setReading(true);
    try {
      await chat.history({ limit: PAGE });
      setTrouble("");
      hub.begun.add(chatId);
      setOpened(true);
    } catch (error) {
      setTrouble(said(error));
      // Asked for by scrolling, which nobody should have to do twice.
      if (error instanceof HoldfastError && error.retryable) setAgain((times) => times + 1);
    } finally {
      busy.current = false;
      setReading(false);
    }
  }, [hub, chat, chatId]);
  useEffect(() => {
    if (again === 0 || status !== "online") return;
    const timer = setTimeout(() => void older(), AGAIN_MS);
    return () => clearTimeout(timer);
  }, [again, status, older]);
  // The newest page: now, or with the next connection.
  useEffect(() => {
    if (status === "online" && !opened) void older();
  }, [status, opened, older]);
  return { chat, messages, older, reading, trouble, opened };
}

function Conversation({
  chatId,
  title,
  searching,
  endSearch,
}: {
  chatId: string;
  title: string;
  searching: boolean;
  endSearch: () => void;
}) {
  const hub = useHub();
  const { chat, messages, older, reading, trouble, opened } = useMessages(chatId);
  const list = useRef<MessageListHandle>(null);
  const [query, setQuery] = useState("");
  const [found, setFound] = useState(0);

  const wanted = searching ? query.trim().toLocaleLowerCase() : "";
  const hits = useMemo(() => {
    if (!wanted) return [];
    return messages.filter(({ content }) => content.toLocaleLowerCase().includes(wanted)).map(({ key }) => key);
  }, [messages, wanted]);
  // Counted from the newest.
  const go = (to: number) => {
    if (hits.length === 0) return;
    const next = (to + hits.length) % hits.length;
    setFound(next);
    list.current?.show(hits[hits.length - 1 - next]!);
  };
  useEffect(() => {
    if (!searching) setQuery("");
  }, [searching]);

  useMarkRead(chatId, messages, opened);
  const retry = useCallback((tempId: string) => void hub.attempt(() => chat.retry(tempId)), [hub, chat]);
  const discard = useCallback((tempId: string) => void hub.attempt(() => chat.discard(tempId)), [hub, chat]);
  const status = useHubState((state) => state.status);

  return (
    <>
      {searching && (
        <search className="finder">
          <input
            type="search"
            aria-label={`Search in ${title}`}
            placeholder="Search in what is loaded"
            value={query}
            // biome-ignore lint/a11y/noAutofocus: it has just been asked for
            autoFocus
            onChange={(event) => {
              setQuery(event.target.value);
              setFound(0);
            }}
            onKeyDown={(event) => {
              if (event.key === "Enter") go(found + (event.shiftKey ? -1 : 1));
              if (event.key === "Escape") endSearch();
            }}
          />
          <span role="status" className="found">
            {wanted && (hits.length === 0 ? "nothing" : `${found + 1} of ${hits.length}`)}
          </span>
          <IconButton label="Older match" disabled={hits.length === 0} onClick={() => go(found + 1)}>
            <Up />
          </IconButton>
          <IconButton label="Newer match" disabled={hits.length === 0} onClick={() => go(found - 1)}>
            <Down />
          </IconButton>
          <IconButton label="End the search" onClick={endSearch}>
            <Close />
          </IconButton>
        </search>
      )}
      <MessageList
        ref={list}
        messages={messages}
        userId={hub.userId}
        group={isGroup(chatId)}
        query={wanted}
        current={hits[hits.length - 1 - found]}
        older={older}
        complete={chat.complete}
        reading={reading}
        notice={
          trouble || (!opened && status !== "online" ? "Earlier messages can be read when the connection is back." : "")
        }
        retry={retry}
        discard={discard}
        label={`Messages with ${title}`}
      />
      <Composer key={chatId} chat={chat} title={title} sent={() => list.current?.toEnd()} />
    </>
  );
}

/** What is looked at is read. */
function useMarkRead(chatId: string, messages: readonly ViewMessage[], opened: boolean): void {
  const hub = useHub();
  const online = useHubState((state) => state.status === "online");
  const unread = useHubState((state) => state.rows.find((row) => row.chatId === chatId)?.unread ?? 0);
  let newest: string | undefined;
  for (let at = messages.length - 1; at >= 0 && newest === undefined; at--) {
    if (messages[at]!.status === "received") newest = messages[at]!.messageId;
  }
  const marked = useRef<string>(undefined);
  useEffect(() => {
    const look = () => {
      if (!opened || !online || newest === undefined || document.visibilityState !== "visible") return;
      if (!document.hasFocus() || (marked.current === newest && unread === 0)) return;
      marked.current = newest;
      void hub.read(chatId);
    };
    // Not for each message of a burst.
    const timer = setTimeout(look, 300);
    addEventListener("focus", look);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearTimeout(timer);
      removeEventListener("focus", look);
      document.removeEventListener("visibilitychange", look);
    };
  }, [hub, chatId, newest, unread, opened, online]);
}

import * as Ariakit from "@ariakit/react";
import { memo, useEffect, useMemo, useRef, useState } from "react";
import { VList, type VListHandle } from "virtua";
import { friendOf, type Row } from "../model/conversations";
import { signInBy } from "../model/session";
import { useHub, useHubState, useName, useTitle } from "./context";
import { Menu, Plus } from "./icons";
import { NewChat } from "./NewChat";
import { allowNotifications } from "./notify";
import { ProfileDialog } from "./ProfileDialog";
import { Avatar, IconButton } from "./parts";
import { preferences, usePreferences } from "./preferences";
import { listTime } from "./times";

export function Sidebar({
  open,
  show,
  signOut,
}: {
  open: string | undefined;
  show: (chatId: string) => void;
  signOut: () => void;
}) {
  const hub = useHub();
  const rows = useHubState((state) => state.rows);
  const listed = useHubState((state) => state.listed);
  const online = useHubState((state) => state.status === "online");
  const profiles = useHubState((state) => state.profiles);
  const groups = useHubState((state) => state.groups);
  const [filter, setFilter] = useState("");
  const [making, setMaking] = useState(false);
  const list = useRef<VListHandle>(null);
  const box = useRef<HTMLElement>(null);
  const search = useRef<HTMLInputElement>(null);
  const [at, setAt] = useState(0);

  const wanted = filter.trim().toLocaleLowerCase();
  const shown = useMemo(() => {
    if (!wanted) return rows;
    const names = ({ chatId, members }: Row) => {
      const friend = friendOf(chatId, hub.userId);
      const ids = friend === undefined ? members : [friend];
      return [groups[chatId]?.name ?? "", ...ids.flatMap((id) => [id, profiles[id]?.displayName ?? ""])];
    };
    return rows.filter(
      (row) =>
        names(row).some((name) => name.toLocaleLowerCase().includes(wanted)) ||
        row.lastMessage?.content.toLocaleLowerCase().includes(wanted),
    );
  }, [rows, wanted, groups, profiles, hub]);

  // One stop for the Tab key; the arrows go through the list.
  const stop = Math.min(at, shown.length - 1);
  const go = (to: number) => {
    const index = Math.max(0, Math.min(shown.length - 1, to));
    setAt(index);
    list.current?.scrollToIndex(index, { align: "nearest" });
    const focus = () => {
      const row = box.current?.querySelector<HTMLElement>(`[data-at="${index}"]`);
      row?.focus();
      return row;
    };
    // At once, so that the next key is its own; a row that is not drawn yet has to wait.
    if (!focus()) requestAnimationFrame(focus);
  };
  const next = (key: string): number | undefined => {
    if (key === "ArrowDown") return stop + 1;
    if (key === "ArrowUp") return stop - 1;
    if (key === "Home") return 0;
    return key === "End" ? shown.length - 1 : undefined;
  };

  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "k") {
        event.preventDefault();
        search.current?.focus();
      }
      if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp") && shown.length > 0) {
        event.preventDefault();
        const now = shown.findIndex(({ chatId }) => chatId === open);
        const next = shown[now + (event.key === "ArrowDown" ? 1 : -1)];
        if (next) show(next.chatId);
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [shown, open, show]);

  const nothing = () => {
    if (wanted) return "Nothing that is loaded fits.";
    if (listed) return "No conversations yet. Begin one with “New chat”.";
    return online ? "Loading…" : "The list comes with the connection.";
  };
  return (
    <nav className="sidebar" aria-label="Conversations" ref={box}>
      <header className="bar">
        <AccountMenu signOut={signOut} />
        <h1 className="grow">Chats</h1>
        <IconButton label="New chat" onClick={() => setMaking(true)}>
          <Plus />
        </IconButton>
      </header>
      <div className="filter">
        <input
          ref={search}
          type="search"
          aria-label="Search conversations"
          aria-keyshortcuts="Control+K"
          placeholder="Search"
          value={filter}
          onChange={(event) => setFilter(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === "ArrowDown" && shown.length > 0) {
              event.preventDefault();
              go(0);
            }
            if (event.key === "Enter" && shown[0]) show(shown[0].chatId);
          }}
        />
      </div>
      {shown.length === 0 ? (
        <p className="empty">{nothing()}</p>
      ) : (
        <VList
          ref={list}
          className="rows"
          data={shown}
          onScroll={(offset) => {
            const { viewportSize = 0, scrollSize = 0 } = list.current ?? {};
            if (offset + viewportSize > scrollSize - 300) void hub.more();
          }}
          onKeyDown={(event) => {
            const to = event.altKey ? undefined : next(event.key);
            if (to === undefined) return;
            event.preventDefault();
            go(to);
          }}
        >
          {(row: Row, index: number) => (
            <RowView key={row.chatId} row={row} index={index} stop={index === stop} current={row.chatId === open} />
          )}
        </VList>
      )}
      {making && (
        <NewChat
          close={() => setMaking(false)}
          open={(chatId) => {
            setMaking(false);
            show(chatId);
          }}
        />
      )}
    </nav>
  );
}

const RowView = memo(function RowView({
  row,
  index,
  stop,
  current,
}: {
  row: Row;
  index: number;
  stop: boolean;
  current: boolean;
}) {
  const hub = useHub();
  const { chatId, lastMessage, unread } = row;
  const friend = friendOf(chatId, hub.userId);
  const title = useTitle(chatId, friend);
  const sender = useName(lastMessage?.senderId ?? hub.userId);
  const typing = useHubState((state) => (state.typing[chatId]?.length ?? 0) > 0);
  const online = useHubState(
    (state) => friend !== undefined && state.online[friend] === true && state.status === "online",
  );
  const who = lastMessage?.senderId === hub.userId ? "You: " : friend === undefined && lastMessage ? `${sender}: ` : "";
  const text = typing ? "typing…" : lastMessage ? `${who}${lastMessage.content || "an image"}` : "";
  return (
    <a
      href={`#${encodeURIComponent(chatId)}`}
      className="row"
      data-at={index}
      data-chat={chatId}
      tabIndex={stop ? 0 : -1}
      {...(current && { "aria-current": "page" as const })}
    >
      <Avatar id={friend ?? chatId} name={title} online={online} />
      <span className="row-text">
        <span className="row-title">
          <bdi className="name">{title}</bdi>
          {online && <span className="hidden">, online</span>}
          {lastMessage && <time>{listTime(lastMessage.timestamp)}</time>}
        </span>
        <span className="row-title">
          <bdi className={`preview ${typing ? "is-typing" : ""}`}>{text}</bdi>
          {unread > 0 && (
            <span className="unread">
              {unread >= 999 ? "999+" : unread}
              <span className="hidden"> unread</span>
            </span>
          )}
        </span>
      </span>
    </a>
  );
});

function AccountMenu({ signOut }: { signOut: () => void }) {
  const hub = useHub();
  const name = useName(hub.userId);
  const cut = useHubState((state) => state.cut);
  const { notifications, images } = usePreferences();
  const [profile, setProfile] = useState(false);
  const checked = [notifications && "notifications", images && "images", cut && "cut"].filter((name) => name !== false);
  const toggleNotifications = async () => {
    const on = !notifications && (await allowNotifications());
    if (!notifications && !on) hub.notice("This browser does not allow notifications from here");
    preferences.set({ notifications: on });
  };
  return (
    <>
      <Ariakit.MenuProvider values={{ on: checked }} setValues={() => {}}>
        <Ariakit.MenuButton className="icon-button" aria-label="Menu" title="Menu">
          <Menu />
        </Ariakit.MenuButton>
        <Ariakit.Menu className="menu" gutter={6} portal preserveTabOrder={false}>
          <div className="menu-head">
            Signed in as <bdi>{name}</bdi>
          </div>
          <Ariakit.MenuItem className="menu-item" onClick={() => setProfile(true)}>
            Your profile
          </Ariakit.MenuItem>
          <Ariakit.MenuItemCheckbox
            className="menu-item"
            name="on"
            value="notifications"
            hideOnClick={false}
            onClick={() => void toggleNotifications()}
          >
            <Ariakit.MenuItemCheck />
            Notifications
          </Ariakit.MenuItemCheckbox>
          <Ariakit.MenuItemCheckbox
            className="menu-item"
            name="on"
            value="images"
            hideOnClick={false}
            onClick={() => preferences.set({ images: !images })}
          >
            <Ariakit.MenuItemCheck />
            Load pictures by themselves
          </Ariakit.MenuItemCheckbox>
          {signInBy() === "name" && (
            <Ariakit.MenuItemCheckbox className="menu-item" name="on" value="cut" onClick={() => hub.cut(!cut)}>
              <Ariakit.MenuItemCheck />
              Cut the line
            </Ariakit.MenuItemCheckbox>
          )}
          <Ariakit.MenuSeparator className="menu-line" />
          <Ariakit.MenuItem className="menu-item" onClick={signOut}>
            Sign out
          </Ariakit.MenuItem>
        </Ariakit.Menu>
      </Ariakit.MenuProvider>
      {profile && <ProfileDialog close={() => setProfile(false)} />}
    </>
  );
}

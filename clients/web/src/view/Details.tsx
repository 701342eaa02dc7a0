import * as Ariakit from "@ariakit/react";
import { useCallback, useEffect, useState } from "react";
import type { Friendship, Group, Role } from "../model/api";
import { USER_ID } from "../model/session";
import { useHub, useHubState, useName } from "./context";
import { More } from "./icons";
import { AskForm, Avatar, Field, Modal } from "./parts";

/** A person: friendship and blocks. */
export function PersonDetails({ userId, close }: { userId: string; close: () => void }) {
  const hub = useHub();
  const name = useName(userId);
  const about = useHubState((state) => state.profiles[userId]?.about);
  const [status, setStatus] = useState<Friendship>();
  const path = { userId };
  const load = useCallback(async () => {
    const answer = await hub.api.call("get", "/api/friends/{userId}", { path: { userId } });
    setStatus(answer.status);
  }, [hub, userId]);
  useEffect(() => void hub.attempt(load), [hub, load]);
  const run = (what: () => Promise<unknown>) =>
    void hub.attempt(async () => {
      await what();
      await load();
    });
  const befriend = () => hub.api.call("put", "/api/friends/{userId}", { path });
  const unfriend = () => hub.api.call("delete", "/api/friends/{userId}", { path });
  const block = () => hub.api.call("put", "/api/blocks/{userId}", { path });
  const unblock = () => hub.api.call("delete", "/api/blocks/{userId}", { path });
  const words: Record<Friendship, string> = {
    none: "You are not friends.",
    requested: "You have asked to be friends.",
    incoming: `${name} asks to be your friend.`,
    friends: "You are friends.",
  };
  return (
    <Modal title={name} close={close}>
      <p className="hint">
        User name: <strong>{userId}</strong>
      </p>
      {about && <p dir="auto">{about}</p>}
      <h2>Friendship</h2>
      <p role="status">{status ? words[status] : "…"}</p>
      <div className="buttons">
        {(status === "none" || status === "incoming") && (
          <button type="button" className="primary" onClick={() => run(befriend)}>
            {status === "none" ? "Ask to be friends" : "Accept"}
          </button>
        )}
        {status !== undefined && status !== "none" && (
          <button type="button" onClick={() => run(unfriend)}>
            {status === "friends" ? "End the friendship" : status === "requested" ? "Take it back" : "Decline"}
          </button>
        )}
      </div>
      <h2>Block</h2>
      <p>Neither of you can write to the other, or see whether they are there. It ends a friendship.</p>
      <div className="buttons">
        <button
          type="button"
          className="danger"
          onClick={() => run(() => block().then(() => hub.notice(`${name} is blocked`)))}
        >
          Block
        </button>
        <button
          type="button"
          onClick={() => run(() => unblock().then(() => hub.notice(`${name} is not blocked by you`)))}
        >
          Unblock
        </button>
      </div>
    </Modal>
  );
}

/** A group: its name, its members and their roles, and how to leave it. */
export function GroupDetails({ chatId, close }: { chatId: string; close: () => void }) {
  const hub = useHub();
  const group = useHubState((state) => state.groups[chatId]);
  useEffect(() => hub.wantGroup(chatId), [hub, chatId]);
  if (!group) {
    return (
      <Modal title="Group" close={close}>
        <p>You don’t belong to this group, or it can’t be read now.</p>
      </Modal>
    );
  }
  return <KnownGroup group={group} close={close} />;
}

function KnownGroup({ group, close }: { group: Group; close: () => void }) {
  const hub = useHub();
  const { chatId, name, members } = group;
  const mine = members.find(({ userId }) => userId === hub.userId)?.role ?? "member";
  const manages = mine !== "member";
  const [newName, setNewName] = useState(name);
  const [added, setAdded] = useState("");
  const path = { chatId };
  const rename = async () =>
    hub.gotGroup(await hub.api.call("patch", "/api/chats/{chatId}", { path, body: { name: newName.trim() } }));
  const put = async (userId: string, role?: Role) =>
    hub.gotGroup(
      await hub.api.call("put", "/api/chats/{chatId}/members/{userId}", {
        path: { chatId, userId },
        body: { role: role ?? null },
      }),
    );
  const add = async () => {
    const userId = added.trim();
    if (!USER_ID.test(userId)) throw new Error("This is no user name");
    await put(userId);
    setAdded("");
  };
  const remove = async (userId: string) => {
    await hub.api.call("delete", "/api/chats/{chatId}/members/{userId}", { path: { chatId, userId } });
    if (userId === hub.userId) left();
    else hub.gotGroup({ ...group, members: members.filter((member) => member.userId !== userId) });
  };
  const end = async () => {
    await hub.api.call("delete", "/api/chats/{chatId}", { path });
    left();
  };
  const left = () => {
    hub.gone(chatId);
    location.hash = "";
    close();
  };
  return (
    <Modal title={name} close={close}>
      {manages && (
        <AskForm action="Rename" submit={rename} disabled={newName.trim() === "" || newName.trim() === name}>
          <Field
            id="rename"
            label="Name"
            value={newName}
            onChange={(event) => setNewName(event.target.value)}
            maxLength={100}
          />
        </AskForm>
      )}
      <h2>
        {members.length} {members.length === 1 ? "member" : "members"}
      </h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a long list is scrolled by keys */}
      <ul className="members" tabIndex={0} aria-label="Members">
        {members.map(({ userId, role }) => (
          <Member
            key={userId}
            userId={userId}
            role={role}
            mine={mine}
            put={(next) => void hub.attempt(() => put(userId, next))}
            remove={() => void hub.attempt(() => remove(userId))}
          />
        ))}
      </ul>
      {manages && (
        <AskForm action="Add" submit={add} disabled={added.trim() === ""}>
          <Field
            id="add-member"
            label="Add a member"
            hint="Their user name."
            value={added}
            onChange={(event) => setAdded(event.target.value)}
            maxLength={64}
          />
        </AskForm>
      )}
      <div className="buttons">
        <Sure
          question="Leave this group?"
          action="Leave the group"
          run={() => void hub.attempt(() => remove(hub.userId))}
        />
        {mine === "owner" && (
          <Sure question="End this group for everybody?" action="End the group" run={() => void hub.attempt(end)} />
        )}
      </div>
    </Modal>
  );
}

function Member({
  userId,
  role,
  mine,
  put,
  remove,
}: {
  userId: string;
  role: Role;
  mine: Role;
  put: (role: Role) => void;
  remove: () => void;
}) {
  const hub = useHub();
  const name = useName(userId);
  const online = useHubState((state) => state.online[userId] === true);
  const self = userId === hub.userId;
  const removable = !self && (mine === "owner" || (mine === "admin" && role === "member"));
  return (
    <li className="member">
      <Avatar id={userId} name={name} online={online} />
      <bdi className="grow">
        {name}
        {self && " (you)"}
      </bdi>
      <span className="role">{role}</span>
      {removable && (
        <Ariakit.MenuProvider>
          <Ariakit.MenuButton className="icon-button" aria-label={`What to do with ${name}`} title="More">
            <More />
          </Ariakit.MenuButton>
          <Ariakit.Menu className="menu" gutter={4} portal preserveTabOrder={false}>
            {mine === "owner" && role !== "admin" && (
              <Ariakit.MenuItem className="menu-item" onClick={() => put("admin")}>
                Make an admin
              </Ariakit.MenuItem>
            )}
            {mine === "owner" && role === "admin" && (
              <Ariakit.MenuItem className="menu-item" onClick={() => put("member")}>
                Make a member
              </Ariakit.MenuItem>
            )}
            {mine === "owner" && (
              <Ariakit.MenuItem className="menu-item" onClick={() => put("owner")}>
                Hand the group over
              </Ariakit.MenuItem>
            )}
            <Ariakit.MenuItem className="menu-item" onClick={remove}>
              Remove
            </Ariakit.MenuItem>
          </Ariakit.Menu>
        </Ariakit.MenuProvider>
      )}
    </li>
  );
}

/** A button that asks once more. */
function Sure({ question, action, run }: { question: string; action: string; run: () => void }) {
  const [asking, setAsking] = useState(false);
  if (!asking) {
    return (
      <button type="button" className="danger" onClick={() => setAsking(true)}>
        {action}
      </button>
    );
  }
  return (
    <fieldset className="sure">
      <legend>{question}</legend>
      <button type="button" className="danger" onClick={run}>
        {action}
      </button>
      <button type="button" onClick={() => setAsking(false)}>
        No
      </button>
    </fieldset>
  );
}

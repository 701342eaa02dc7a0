import { createRoot } from "react-dom/client";
import "./style.css";
import { App } from "./view/App";

createRoot(document.getElementById("root")!).render(<App />);

interface Policy {
  createScriptURL(url: string): string;
}
interface Policies {
  trustedTypes?: { createPolicy(name: string, rules: Policy): Policy };
}

// The page's policy lets no script be loaded but by name: this is the only one.
const script = "/sw.js";
const policy = (window as Policies).trustedTypes?.createPolicy("holdfast", {
  createScriptURL: (url) => (url === script ? url : ""),
});
// Pages that are not served over https have none: they need the network to open.
navigator.serviceWorker?.register(policy?.createScriptURL(script) ?? script).catch(() => {});

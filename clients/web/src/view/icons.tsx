import type { ReactNode } from "react";

const icon = (path: ReactNode) => () => (
  <svg className="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    {path}
  </svg>
);

export const Back = icon(<path d="M15 5l-7 7 7 7" />);
export const Plus = icon(<path d="M12 5v14M5 12h14" />);
export const Search = icon(
  <>
    <circle cx="11" cy="11" r="6" />
    <path d="M16 16l4 4" />
  </>,
);
export const Send = icon(<path d="M4 12l16-8-6 16-3-7z" />);
export const Picture = icon(
  <>
    <rect x="4" y="5" width="16" height="14" rx="2" />
    <path d="M5 17l5-5 4 4 2-2 3 3" />
    <circle cx="9" cy="9" r="1" />
  </>,
);
export const Menu = icon(<path d="M4 7h16M4 12h16M4 17h16" />);
export const More = icon(
  <>
    <circle cx="12" cy="5.5" r="1" />
    <circle cx="12" cy="12" r="1" />
    <circle cx="12" cy="18.5" r="1" />
  </>,
);
export const Close = icon(<path d="M6 6l12 12M18 6L6 18" />);
export const Up = icon(<path d="M6 15l6-6 6 6" />);
export const Down = icon(<path d="M6 9l6 6 6-6" />);
export const Clock = icon(
  <>
    <circle cx="12" cy="12" r="7" />
    <path d="M12 8v4l3 2" />
  </>,
);
export const Tick = icon(<path d="M6 13l4 4 8-9" />);
export const Ticks = icon(<path d="M2 13l4 4 8-9M11 16l1 1 8-9" />);
export const Warning = icon(<path d="M12 4l9 16H3zM12 10v4M12 17v.5" />);

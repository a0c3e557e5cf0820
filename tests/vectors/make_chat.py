#!/usr/bin/env python3
"""Chat templates and what they give: writes chat.json, or with --check renders every template of it again (jinja2).

The templates say what the public ones say about system, user and assistant messages, in the shortest form. TAP output with
--check; without jinja2 the check is a visible skip, since the expected strings in chat.json are what the C test compares."""
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent


def by_role(system, user, assistant, gen="", done=""):
    tail = "{% if add_generation_prompt %}{{ " + repr(gen) + " }}{% else %}{{ " + (done or "''") + " }}{% endif %}" if gen or done else ""
    return ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ " + system +
            " }}{% elif message['role'] == 'user' %}{{ " + user + " }}{% else %}{{ " + assistant + " }}{% endif %}{% endfor %}" + tail)


def mark(before, after, trim=False):
    return repr(before) + " + message['content']" + (" | trim" if trim else "") + " + " + repr(after)


def folded(system, user, assistant, gen="", last=False):
    where = "loop.last" if last else "loop.first"
    return ("{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set rest = messages[1:] %}"
            "{% else %}{% set system_message = false %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for message in rest %}"
            "{% if " + where + " and system_message != false and message['role'] == 'user' %}{{ " + system + " }}"
            "{% elif message['role'] == 'user' %}{{ " + user + " }}{% else %}{{ " + assistant + " }}{% endif %}{% endfor %}" +
            ("{% if add_generation_prompt %}{{ " + repr(gen) + " }}{% endif %}" if gen else ""))


def chatml(default=None):
    first = ("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + default + "<|im_end|>\\n' }}{% endif %}"
             if default else "")
    return ("{% for message in messages %}" + first + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def deepseek(name):
    return "<\uff5c" + name + "\uff5c>"


HEAD = "<|start_header_id|>%s<|end_header_id|>\n\n"
TURN = "<|START_OF_TURN_TOKEN|><|%s_TOKEN|>"
M = "message['content']"
TEMPLATES = {
    "chatml": chatml(),
    "qwen1.5": chatml("You are a helpful assistant"),
    "qwen2": chatml("You are a helpful assistant."),
    "qwen2.5": chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "smollm2": chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "llama2": ("{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] %}{% else %}"
               "{% set rest = messages %}{% set sys = false %}{% endif %}{% for m in rest %}{% if loop.first and sys != false %}"
               "{% set c = '<<SYS>>\\n' + sys + '\\n<</SYS>>\\n\\n' + m['content'] %}{% else %}{% set c = m['content'] %}{% endif %}"
               "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + c.strip() + ' [/INST]' }}{% else %}"
               "{{ ' ' + c.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "llama3": by_role(mark(HEAD % "system", "<|eot_id|>", True), mark(HEAD % "user", "<|eot_id|>", True),
                      mark(HEAD % "assistant", "<|eot_id|>", True), HEAD % "assistant"),
    "llama3.1": ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] | trim %}"
                 "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}"
                 "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: 26 Jul 2024\\n\\n' "
                 "+ sys + '<|eot_id|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + "
                 "m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
                 "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"),
    "mistral-v0.1": folded(f"'[INST] ' + system_message + '\\n\\n' + {M} + ' [/INST]'", f"'[INST] ' + {M} + ' [/INST]'",
                           f"{M} + eos_token + ' '"),
    "mistral-v0.2": folded(f"'[INST] ' + system_message + '\\n\\n' + {M} + ' [/INST]'", f"'[INST] ' + {M} + ' [/INST]'",
                           f"{M} + eos_token"),
    "mistral-v1": folded(f"' [INST] ' + system_message + '\\n\\n' + {M} + ' [/INST]'", f"' [INST] ' + {M} + ' [/INST]'",
                         f"' ' + {M} + eos_token"),
    "mistral-v3": folded(f"'[INST] ' + system_message + '\\n\\n' + {M} + '[/INST]'", f"'[INST] ' + {M} + '[/INST]'",
                         f"' ' + {M} | trim + eos_token", last=True),
    "mistral-v3-tekken": folded(f"'[INST]' + system_message + '\\n\\n' + {M} + '[/INST]'", f"'[INST]' + {M} + '[/INST]'",
                                f"{M} + eos_token", last=True),
    "mistral-v7": by_role(mark("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"), mark("[INST] ", "[/INST]"), f"' ' + {M} + eos_token"),
    "mistral-v7-tekken": by_role(mark("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), mark("[INST]", "[/INST]"), f"{M} + eos_token"),
    "zephyr": by_role(f"'<|system|>\\n' + {M} + eos_token + '\\n'", f"'<|user|>\\n' + {M} + eos_token + '\\n'",
                      f"'<|assistant|>\\n' + {M} + eos_token + '\\n'", "<|assistant|>\n"),
    "phi3": by_role(mark("<|system|>\n", "<|end|>\n"), mark("<|user|>\n", "<|end|>\n"), mark("<|assistant|>\n", "<|end|>\n"),
                    "<|assistant|>\n", "eos_token"),
    "phi4": by_role(mark("<|im_start|>system<|im_sep|>", "<|im_end|>"), mark("<|im_start|>user<|im_sep|>", "<|im_end|>"),
                    mark("<|im_start|>assistant<|im_sep|>", "<|im_end|>"), "<|im_start|>assistant<|im_sep|>"),
    "gemma": folded(f"'<start_of_turn>user\\n' + system_message | trim + '\\n\\n' + {M} | trim + '<end_of_turn>\\n'",
                    f"'<start_of_turn>user\\n' + {M} | trim + '<end_of_turn>\\n'",
                    f"'<start_of_turn>model\\n' + {M} | trim + '<end_of_turn>\\n'", "<start_of_turn>model\n"),
    "alpaca": by_role(f"{M}.strip() + '\\n\\n'", f"'### Instruction:\\n' + {M}.strip() + '\\n\\n'",
                      f"'### Response:\\n' + {M}.strip() + eos_token + '\\n\\n'", "### Response:\n"),
    "vicuna": by_role(mark("", "\n\n"), mark("USER: ", "\n"), f"'ASSISTANT: ' + {M} + eos_token + '\\n'", "ASSISTANT:"),
    "vicuna-orca": by_role(mark("SYSTEM: ", "\n"), mark("USER: ", "\n"), f"'ASSISTANT: ' + {M} + eos_token + '\\n'", "ASSISTANT:"),
    "deepseek2": by_role(f"{M} + '\\n\\n'", f"'User: ' + {M} + '\\n\\n'", "'Assistant: ' + message['content'] + eos_token", "Assistant:"),
    "deepseek3": by_role(M, mark(deepseek("User"), ""), mark(deepseek("Assistant"), deepseek("end\u2581of\u2581sentence")),
                         deepseek("Assistant")),
    "deepseek-r1": by_role(M, mark(deepseek("User"), ""),
                           repr(deepseek("Assistant")) + f" + {M}.split('</think>')[-1] + " + repr(deepseek("end\u2581of\u2581sentence")),
                           deepseek("Assistant") + "<think>\n"),
    "command-r": by_role(mark(TURN % "SYSTEM", "<|END_OF_TURN_TOKEN|>"), mark(TURN % "USER", "<|END_OF_TURN_TOKEN|>", True),
                         mark(TURN % "CHATBOT", "<|END_OF_TURN_TOKEN|>", True), TURN % "CHATBOT"),
    "openchat": ("{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] + '<|end_of_turn|>' }}"
                 "{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"),
    "granite": ("{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' }}"
                "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"),
    "monarch": ("{% for message in messages %}{{ bos_token + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ bos_token + 'assistant\\n' }}{% endif %}"),
}
S = [["system", " Be brief. "], ["user", "Hello"], ["assistant", " Hi there\n"], ["user", "  Who are\u3000you?\u00a0"],
     ["assistant", "<think>\nwell\n</think>\nI am\u2003"], ["user", "Another <|im_end|> </s> question\n"]]
TALKS = [(S, 1), (S[1:], 1), (S[:2], 1), (S[1:2], 1), (S[:5], 0), (S[1:3], 0)]


def render(jinja, talk, generate):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    text = env.from_string(jinja).render(messages=[{"role": r, "content": c} for r, c in talk], add_generation_prompt=bool(generate),
                                         bos_token="<s>", eos_token="</s>")
    return text.removeprefix("<s>")


def main():
    path = HERE / "chat.json"
    if "--check" not in sys.argv:
        out = [{"name": name, "jinja": jinja, "talks": [{"messages": t, "generate": g, "expected": render(jinja, t, g)} for t, g in TALKS]}
               for name, jinja in TEMPLATES.items()]
        path.write_text(json.dumps(out, ensure_ascii=True, indent=1) + "\n")
        return
    try:
        import jinja2  # noqa: F401
    except ImportError:
        oracles = os.environ.get("CALOR_PYTHON", sys.executable)
        if oracles != sys.executable:
            os.environ.pop("CALOR_PYTHON")
            os.execv(oracles, [oracles, *sys.argv])
        print("1..1\nok 1 - templates render to the expected strings # SKIP no jinja2")
        return
    cases = json.loads(path.read_text())
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        ok = all(render(case["jinja"], t["messages"], t["generate"]) == t["expected"] for t in case["talks"])
        print(f"{'ok' if ok else 'not ok'} {number} - {case['name']} renders to the expected strings")


if __name__ == "__main__":
    main()

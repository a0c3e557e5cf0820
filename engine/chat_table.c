/* Chat templates as a table. Most of the Jinja programs that come with models say the same few things: what
 * stands before and after a message of each role, where the system message goes, and what opens the answer.
 * Files are recognised by the marks in their program; the output is that of the program for system, user and
 * assistant messages. */
#include "engine/chat.h"
#include "engine/chat_parts.h"

#include <string.h>

#define CHATML(label, text)                                                                                  \
    {                                                                                                        \
        .name = label, .system = {"<|im_start|>system\n", "<|im_end|>\n"},                                   \
        .user = {"<|im_start|>user\n", "<|im_end|>\n"},                                                      \
        .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"}, .generate = "<|im_start|>assistant\n",     \
        .default_system = text                                                                               \
    }
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define COHERE(role) "<|START_OF_TURN_TOKEN|><|" role "_TOKEN|>"
#define COHERE_END   "<|END_OF_TURN_TOKEN|>"
#define DS_USER      "<\xef\xbd\x9cUser\xef\xbd\x9c>"
#define DS_ASSISTANT                                                                                         \
    "<\xef\xbd\x9c"                                                                                          \
    "Assistant\xef\xbd\x9c>"
#define DS_END                                                                                               \
    "<\xef\xbd\x9c"                                                                                          \
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"

enum {
    T_CHATML,
    T_QWEN15,
    T_QWEN2,
    T_QWEN25,
    T_SMOLLM2,
    T_QWEN3,
    T_QWQ,
    T_LLAMA2,
    T_LLAMA3,
    T_LLAMA31,
    T_MISTRAL_V01,
    T_MISTRAL_V02,
    T_MISTRAL_V1,
    T_MISTRAL_V3,
    T_MISTRAL_V3_TEKKEN,
    T_MISTRAL_V7,
    T_MISTRAL_V7_TEKKEN,
    T_ZEPHYR,
    T_PHI3,
    T_PHI4,
    T_FALCON3,
    T_GEMMA,
    T_ALPACA,
    T_VICUNA,
    T_VICUNA_ORCA,
    T_DEEPSEEK,
    T_DEEPSEEK2,
    T_DEEPSEEK3,
    T_DEEPSEEK_R1,
    T_COMMAND_R,
    T_OPENCHAT,
    T_GRANITE,
    T_EXAONE3,
    T_CHATGLM3,
    T_CHATGLM4,
    T_GLMEDGE,
    T_MINICPM,
    T_MEGREZ,
    T_MONARCH,
    T_ORION,
    T_COUNT
};

const struct chat_template chat_table[] = {
    [T_CHATML] = CHATML("chatml", NULL),
    [T_QWEN15] = CHATML("qwen1.5", "You are a helpful assistant"),
    [T_QWEN2] = CHATML("qwen2", "You are a helpful assistant."),
    [T_QWEN25] = CHATML("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    [T_SMOLLM2] = CHATML("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    [T_QWEN3] = {.name = "qwen3",
                 .system = {"<|im_start|>system\n", "<|im_end|>\n"},
                 .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                 .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
                 .generate = "<|im_start|>assistant\n",
                 .drop_thoughts = true},
    [T_QWQ] = {.name = "qwq",
               .system = {"<|im_start|>system\n", "<|im_end|>\n"},
               .user = {"<|im_start|>user\n", "<|im_end|>\n"},
               .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
               .generate = "<|im_start|>assistant\n<think>\n",
               .drop_thoughts = true},
    [T_LLAMA2] = {.name = "llama2",
                  .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
                  .user = {"\1[INST] ", " [/INST]", true},
                  .assistant = {" ", " \2", true},
                  .place = SYSTEM_FIRST},
    [T_LLAMA3] = {.name = "llama3",
                  .system = {HEADER("system"), "<|eot_id|>", true},
                  .user = {HEADER("user"), "<|eot_id|>", true},
                  .assistant = {HEADER("assistant"), "<|eot_id|>", true},
                  .generate = HEADER("assistant")},
    [T_LLAMA31] =
        {.name = "llama3.1",
         .system = {HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
                    "<|eot_id|>", true},
         .user = {HEADER("user"), "<|eot_id|>", true},
         .assistant = {HEADER("assistant"), "<|eot_id|>", true},
         .generate = HEADER("assistant"),
         .default_system = ""},
    [T_MISTRAL_V01] = {.name = "mistral-v0.1",
                       .system = {"", "\n\n"},
                       .user = {"[INST] ", " [/INST]"},
                       .assistant = {"", "\2 "},
                       .place = SYSTEM_FIRST},
    [T_MISTRAL_V02] = {.name = "mistral-v0.2",
                       .system = {"", "\n\n"},
                       .user = {"[INST] ", " [/INST]"},
                       .assistant = {"", "\2"},
                       .place = SYSTEM_FIRST},
    [T_MISTRAL_V1] = {.name = "mistral-v1",
                      .system = {"", "\n\n"},
                      .user = {" [INST] ", " [/INST]"},
                      .assistant = {" ", "\2"},
                      .place = SYSTEM_FIRST},
    [T_MISTRAL_V3] = {.name = "mistral-v3",
                      .system = {"", "\n\n"},
                      .user = {"[INST] ", "[/INST]"},
                      .assistant = {" ", "\2", true},
                      .place = SYSTEM_LAST},
    [T_MISTRAL_V3_TEKKEN] = {.name = "mistral-v3-tekken",
                             .system = {"", "\n\n"},
                             .user = {"[INST]", "[/INST]"},
                             .assistant = {"", "\2"},
                             .place = SYSTEM_LAST},
    [T_MISTRAL_V7] = {.name = "mistral-v7",
                      .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
                      .user = {"[INST] ", "[/INST]"},
                      .assistant = {" ", "\2"}},
    [T_MISTRAL_V7_TEKKEN] = {.name = "mistral-v7-tekken",
                             .system = {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"},
                             .user = {"[INST]", "[/INST]"},
                             .assistant = {"", "\2"}},
    [T_ZEPHYR] = {.name = "zephyr",
                  .system = {"<|system|>\n", "\2\n"},
                  .user = {"<|user|>\n", "\2\n"},
                  .assistant = {"<|assistant|>\n", "\2\n"},
                  .generate = "<|assistant|>\n"},
    [T_PHI3] = {.name = "phi3",
                .system = {"<|system|>\n", "<|end|>\n"},
                .user = {"<|user|>\n", "<|end|>\n"},
                .assistant = {"<|assistant|>\n", "<|end|>\n"},
                .generate = "<|assistant|>\n",
                .done = "\2"},
    [T_PHI4] = {.name = "phi4",
                .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
                .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
                .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
                .generate = "<|im_start|>assistant<|im_sep|>"},
    [T_FALCON3] = {.name = "falcon3",
                   .system = {"<|system|>\n", "\n"},
                   .user = {"<|user|>\n", "\n"},
                   .assistant = {"<|assistant|>\n", "\2\n"},
                   .generate = "<|assistant|>\n"},
    [T_GEMMA] = {.name = "gemma",
                 .system = {"", "\n\n", true},
                 .user = {"<start_of_turn>user\n", "<end_of_turn>\n", true},
                 .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n", true},
                 .generate = "<start_of_turn>model\n",
                 .place = SYSTEM_FIRST},
    [T_ALPACA] = {.name = "alpaca",
                  .system = {"", "\n\n", true},
                  .user = {"### Instruction:\n", "\n\n", true},
                  .assistant = {"### Response:\n", "\2\n\n", true},
                  .generate = "### Response:\n"},
    [T_VICUNA] = {.name = "vicuna",
                  .system = {"", "\n\n"},
                  .user = {"USER: ", "\n"},
                  .assistant = {"ASSISTANT: ", "\2\n"},
                  .generate = "ASSISTANT:"},
    [T_VICUNA_ORCA] = {.name = "vicuna-orca",
                       .system = {"SYSTEM: ", "\n"},
                       .user = {"USER: ", "\n"},
                       .assistant = {"ASSISTANT: ", "\2\n"},
                       .generate = "ASSISTANT:"},
    [T_DEEPSEEK] =
        {.name = "deepseek",
         .system = {"", ""},
         .user = {"### Instruction:\n", "\n"},
         .assistant = {"### Response:\n", "\n<|EOT|>\n"},
         .generate = "### Response:\n",
         .default_system =
             "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek "
             "Company, and you only answer questions related to computer science. For politically sensitive "
             "questions, security and privacy issues, and other non-computer science questions, you will "
             "refuse to answer\n"},
    [T_DEEPSEEK2] = {.name = "deepseek2",
                     .system = {"", "\n\n"},
                     .user = {"User: ", "\n\n"},
                     .assistant = {"Assistant: ", "\2"},
                     .generate = "Assistant:"},
    [T_DEEPSEEK3] = {.name = "deepseek3",
                     .system = {"", ""},
                     .user = {DS_USER, ""},
                     .assistant = {DS_ASSISTANT, DS_END},
                     .generate = DS_ASSISTANT},
    [T_DEEPSEEK_R1] = {.name = "deepseek-r1",
                       .system = {"", ""},
                       .user = {DS_USER, ""},
                       .assistant = {DS_ASSISTANT, DS_END},
                       .generate = DS_ASSISTANT "<think>\n",
                       .drop_thoughts = true,
                       .keep_newlines = true},
    [T_COMMAND_R] = {.name = "command-r",
                     .system = {COHERE("SYSTEM"), COHERE_END},
                     .user = {COHERE("USER"), COHERE_END, true},
                     .assistant = {COHERE("CHATBOT"), COHERE_END, true},
                     .generate = COHERE("CHATBOT")},
    [T_OPENCHAT] = {.name = "openchat",
                    .system = {"GPT4 Correct System: ", "<|end_of_turn|>"},
                    .user = {"GPT4 Correct User: ", "<|end_of_turn|>"},
                    .assistant = {"GPT4 Correct Assistant: ", "<|end_of_turn|>"},
                    .generate = "GPT4 Correct Assistant:"},
    [T_GRANITE] = {.name = "granite",
                   .system = {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
                   .user = {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
                   .assistant = {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"},
                   .generate = "<|start_of_role|>assistant<|end_of_role|>"},
    [T_EXAONE3] = {.name = "exaone3",
                   .system = {"[|system|]", "[|endofturn|]\n"},
                   .user = {"[|user|]", "\n"},
                   .assistant = {"[|assistant|]", "[|endofturn|]\n"},
                   .generate = "[|assistant|]"},
    [T_CHATGLM3] = {.name = "chatglm3",
                    .system = {"<|system|>\n ", ""},
                    .user = {"<|user|>\n ", ""},
                    .assistant = {"<|assistant|>\n ", ""},
                    .generate = "<|assistant|>",
                    .start = "[gMASK]sop"},
    [T_CHATGLM4] = {.name = "chatglm4",
                    .system = {"<|system|>\n", ""},
                    .user = {"<|user|>\n", ""},
                    .assistant = {"<|assistant|>\n", ""},
                    .generate = "<|assistant|>",
                    .start = "[gMASK]<sop>"},
    [T_GLMEDGE] = {.name = "glmedge",
                   .system = {"<|system|>\n", ""},
                   .user = {"<|user|>\n", ""},
                   .assistant = {"<|assistant|>\n", ""},
                   .generate = "<|assistant|>"},
    [T_MINICPM] = {.name = "minicpm",
                   .system = {"", "", true},
                   .user = {"<\xe7\x94\xa8\xe6\x88\xb7>", "<AI>", true},
                   .assistant = {"", "", true}},
    [T_MEGREZ] = {.name = "megrez",
                  .system = {"<|role_start|>system<|role_end|>", "<|turn_end|>"},
                  .user = {"<|role_start|>user<|role_end|>", "<|turn_end|>"},
                  .assistant = {"<|role_start|>assistant<|role_end|>", "<|turn_end|>"},
                  .generate = "<|role_start|>assistant<|role_end|>"},
    [T_MONARCH] = {.name = "monarch",
                   .system = {"\1system\n", "\2\n"},
                   .user = {"\1user\n", "\2\n"},
                   .assistant = {"\1assistant\n", "\2\n"},
                   .generate = "\1assistant\n"},
    [T_ORION] = {.name = "orion",
                 .system = {"", "\n\n"},
                 .user = {"Human: ", "\n\nAssistant: \2"},
                 .assistant = {"", "\2"},
                 .place = SYSTEM_FIRST},
};
_Static_assert(sizeof chat_table / sizeof *chat_table == T_COUNT, "one entry a template");
const int chat_table_count = T_COUNT;

const char *chat_name(const struct chat_template *t)
{
    return t->name;
}

const char *const *chat_names(void)
{
    /* In the table's order; a constant list, because threads may ask at once. */
    static const char *const names[T_COUNT + 1] = {
        "chatml",
        "qwen1.5",
        "qwen2",
        "qwen2.5",
        "smollm2",
        "qwen3",
        "qwq",
        "llama2",
        "llama3",
        "llama3.1",
        "mistral-v0.1",
        "mistral-v0.2",
        "mistral-v1",
        "mistral-v3",
        "mistral-v3-tekken",
        "mistral-v7",
        "mistral-v7-tekken",
        "zephyr",
        "phi3",
        "phi4",
        "falcon3",
        "gemma",
        "alpaca",
        "vicuna",
        "vicuna-orca",
        "deepseek",
        "deepseek2",
        "deepseek3",
        "deepseek-r1",
        "command-r",
        "openchat",
        "granite",
        "exaone3",
        "chatglm3",
        "chatglm4",
        "glmedge",
        "minicpm",
        "megrez",
        "monarch",
        "orion",
        NULL,
    };
    return names;
}

struct jinja {
    const char *s;
    size_t n;
};

static bool has(const struct jinja *j, const char *mark)
{
    return memmem(j->s, j->n, mark, strlen(mark)) != NULL;
}

static int chatml_kind(const struct jinja *j)
{
    if (has(j, "<|im_sep|>")) return T_PHI4;
    if (has(j, "assistant\\n<think>\\n")) return T_QWQ;
    if (has(j, "enable_thinking")) return T_QWEN3;
    if (has(j, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")) return T_QWEN25;
    if (has(j, "trained by Hugging Face")) return T_SMOLLM2;
    if (has(j, "system\\nYou are a helpful assistant.<|im_end|>")) return T_QWEN2;
    if (has(j, "system\\nYou are a helpful assistant<|im_end|>")) return T_QWEN15;
    return T_CHATML;
}

static int inst_kind(const struct jinja *j)
{
    if (has(j, "[SYSTEM_PROMPT]")) return has(j, "[SYSTEM_PROMPT] ") ? T_MISTRAL_V7 : T_MISTRAL_V7_TEKKEN;
    if (has(j, "<<SYS>>")) return T_LLAMA2;
    if (has(j, " [INST] ")) return T_MISTRAL_V1;
    if (has(j, "[AVAILABLE_TOOLS]") || has(j, "[INST]\"") || has(j, "'[/INST]'") || has(j, "\"[/INST]\""))
        return has(j, "\"[INST]\"") || has(j, "'[INST]'") ? T_MISTRAL_V3_TEKKEN : T_MISTRAL_V3;
    return has(j, "eos_token + ' '") ? T_MISTRAL_V01 : T_MISTRAL_V02;
}

static int kind(const struct jinja *j)
{
    if (has(j, "<|im_start|>")) return chatml_kind(j);
    if (has(j, "<|start_header_id|>")) return has(j, "Cutting Knowledge Date") ? T_LLAMA31 : T_LLAMA3;
    if (has(j, "[INST]")) return inst_kind(j);
    if (has(j, "<start_of_turn>")) return T_GEMMA;
    if (has(j, "[gMASK]sop")) return T_CHATGLM3;
    if (has(j, "[gMASK]<sop>")) return T_CHATGLM4;
    if (has(j, "<|START_OF_TURN_TOKEN|>")) return T_COMMAND_R;
    if (has(j, "<|start_of_role|>")) return T_GRANITE;
    if (has(j, "<|role_start|>")) return T_MEGREZ;
    if (has(j, "[|endofturn|]")) return T_EXAONE3;
    if (has(j, "GPT4 Correct ")) return T_OPENCHAT;
    if (has(j, "<\xe7\x94\xa8\xe6\x88\xb7>")) return T_MINICPM;
    if (has(j, DS_ASSISTANT) && has(j, DS_USER))
        return has(j, DS_ASSISTANT "<think>") ? T_DEEPSEEK_R1 : T_DEEPSEEK3;
    if (has(j, "<|assistant|>") && has(j, "<|end|>")) return T_PHI3;
    if (has(j, "<|assistant|>") && has(j, "<|user|>") && !has(j, "eos_token") && !has(j, "</s>"))
        return T_GLMEDGE;
    if (has(j, "<|assistant|>") && has(j, "<|user|>"))
        return has(j, "message['content'] + eos_token }}\n{% elif message['role'] == 'system'") ||
                       has(j, "<|user|>\\n' + message['content'] + eos_token") ||
                       has(j, "<|user|>\n' + message['content'] + eos_token")
                   ? T_ZEPHYR
                   : T_FALCON3;
    if (has(j, "'Assistant: ' + message['content'] + eos_token")) return T_DEEPSEEK2;
    if (has(j, "### Instruction:")) return has(j, "<|EOT|>") ? T_DEEPSEEK : T_ALPACA;
    if (has(j, "USER: ") && has(j, "ASSISTANT:")) return has(j, "SYSTEM: ") ? T_VICUNA_ORCA : T_VICUNA;
    if (has(j, "bos_token + message['role']")) return T_MONARCH;
    if (has(j, "\\n\\nAssistant: ' + eos_token")) return T_ORION;
    return -1;
}

const struct chat_template *chat_recognise(const char *jinja, size_t n)
{
    const struct jinja j = {jinja, n};
    int k = kind(&j);
    return k < 0 ? NULL : &chat_table[k];
}
